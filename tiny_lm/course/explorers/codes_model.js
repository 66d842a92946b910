// Numbers in few bits: one with its neighbours, and a row whose groups share scales.
// Repeats tiny_lm/course/explorers/codes.py to the last bit: FP32 arithmetic is FP64's,
// rounded by Math.fround, and every sum is taken in the same order.

const float32 = new Float32Array(1);
const bits32 = new Uint32Array(float32.buffer);

/** The power of two that a positive FP32 number starts with. */
function exponentOf(x) {
  float32[0] = x;
  return (bits32[0] >>> 23) - 127;
}

const powerBelow = (x) => 2 ** exponentOf(x);

/** The step between codes where a size lies. */
function stepAt(format, size) {
  const exponent = size > 0 ? exponentOf(size) : format.min_exponent;
  return 2 ** (Math.max(exponent, format.min_exponent) - format.fraction_bits);
}

const smallestNormal = (format) => 2 ** format.min_exponent;
const smallest = (format) => 2 ** (format.min_exponent - format.fraction_bits);

/** The nearest size of the format, ties to the even code; the largest, for all beyond. */
function roundSize(format, size) {
  const step = stepAt(format, size);
  const count = size / step;
  const below = Math.floor(count);
  const over = count - below;
  const up = over > 0.5 || (over === 0.5 && below % 2 === 1);
  return Math.min((below + (up ? 1 : 0)) * step, format.largest);
}

/** The code of a size that the format has, without its sign. */
function codeOf(format, size) {
  const { min_exponent: least, fraction_bits: bits } = format;
  if (size < smallestNormal(format)) return size / smallest(format);
  const exponent = exponentOf(size);
  return (exponent - least + 1) * 2 ** bits + (size / 2 ** exponent - 1) * 2 ** bits;
}

/** All sizes of a format, zero first. */
function allSizes(format) {
  const sizes = [0];
  while (sizes.at(-1) < format.largest) sizes.push(sizes.at(-1) + stepAt(format, sizes.at(-1)));
  return sizes;
}

function fateOf(format, scaled, size) {
  if (size === 0) return "zero";
  if (scaled > format.limit) return "cut";
  return size < smallestNormal(format) ? "faint" : "kept";
}

/** One number: its code, what it stands for, the sizes around it, and its fate. */
function readNumber(fixed, choice) {
  const format = fixed.formats[choice.format];
  const size = (1 + choice.part / fixed.parts) * 2 ** choice.exponent;
  const step = stepAt(format, size);
  const rounded = roundSize(format, size);
  const above = Math.ceil(size / step) * step;
  const sign = choice.negative ? 2 ** (format.exponent_bits + format.fraction_bits) : 0;
  return {
    size,
    rounded,
    code: sign + codeOf(format, rounded),
    below: Math.min(Math.floor(size / step) * step, format.largest),
    above: above > format.largest ? null : above,
    fate: fateOf(format, size, rounded),
  };
}

/** The row where the sliders stand, its outlier included. */
function makeRow(fixed, choice) {
  const row = fixed.draws.map((draw) => {
    const at = Math.floor((draw * 256 * choice.doublings) / 65536);
    return (256 + (at % 256)) * 2 ** -(9 + Math.floor(at / 256));
  });
  row[fixed.outlier_at] = choice.outlier;
  return row;
}

/** From the largest of each group to its scale. */
function makeScales(fixed, format, rule, amaxes) {
  const over = (amax, number) => Math.fround(amax / number);
  const scale = (amax) => over(amax, format.largest);
  if (rule === "none") return amaxes.map(() => 1);
  if (rule === "amax") return amaxes.map(scale);
  if (rule === "floor") return amaxes.map((a) => powerBelow(a) / powerBelow(format.largest));
  if (rule === "up") {
    return amaxes.map((a) => powerBelow(scale(a)) * (powerBelow(scale(a)) < scale(a) ? 2 : 1));
  }
  const held = fixed.formats[fixed.scale_format];
  const common = over(Math.max(...amaxes), held.largest * format.largest);
  return amaxes.map((amax) => {
    const rounded = roundSize(held, over(scale(amax), common));
    return Math.fround(Math.max(rounded, smallest(held)) * common);
  });
}

/** Length of all changes over length of the numbers, the outlier left out. */
function errorOf(fixed, row, kept) {
  let [changed, size] = [0, 0];
  row.forEach((x, place) => {
    if (place === fixed.outlier_at) return;
    changed += (kept[place] - x) * (kept[place] - x);
    size += x * x;
  });
  return Math.sqrt(changed / size);
}

/** What one way to share scales makes of the row. */
function quantizeRow(fixed, choice, row, way) {
  const format = fixed.formats[choice.format];
  const { name, group, rule } = fixed.ways[way];
  const amaxes = [];
  for (let at = 0; at < row.length; at += group) {
    amaxes.push(Math.max(...row.slice(at, at + group)));
  }
  const scales = makeScales(fixed, format, rule, amaxes);
  const scaled = row.map((x, at) => Math.fround(x / scales[Math.floor(at / group)]));
  const codes = scaled.map((x) => roundSize(format, x));
  const kept = codes.map((x, at) => Math.fround(x * scales[Math.floor(at / group)]));
  const fates = scaled.map((x, at) => fateOf(format, x, codes[at]));
  const shares = Object.fromEntries(
    fixed.fates.map((fate) => [fate, fates.filter((f) => f === fate).length / row.length]),
  );
  return { way, name, group, scales, kept, fates, shares, error: errorOf(fixed, row, kept) };
}

/** A code as bits, and what its fields say; exponent 0 counts as 1, without a leading 1. */
function fieldsOf(format, code) {
  const { exponent_bits: high, fraction_bits: low, min_exponent: least } = format;
  const bits = code.toString(2).padStart(1 + high + low, "0");
  const field = parseInt(bits.slice(1, 1 + high), 2);
  return {
    bits,
    bias: 1 - least,
    exponent: Math.max(field, 1) - (1 - least),
    leading: field ? 1 : 0,
    over: parseInt(bits.slice(1 + high), 2),
  };
}

const clamp = (x, from, to) => Math.min(Math.max(x, from), to);

/** Where sizes lie on the line: each doubling is equally wide. */
class Line {
  constructor(fixed, width, side) {
    const [first, last] = [fixed.places.exponent[0], fixed.places.exponent.at(-1)];
    Object.assign(this, { fixed, first, last, side, width: width - 2 * side });
  }

  x(size) {
    return this.side + (this.width * (Math.log2(size) - this.first)) / (this.last + 1 - this.first);
  }

  /** The place of the sliders that is nearest to a place on the line. */
  at(x) {
    const { fixed, first, last, side, width } = this;
    const power = clamp(first + ((x - side) / width) * (last + 1 - first), first, last + 1);
    const exponent = Math.min(Math.floor(power), last);
    const part = Math.round((2 ** (power - exponent) - 1) * fixed.parts);
    return { exponent, part: Math.min(part, fixed.parts - 1) };
  }
}

// --- numbers in words ---

const digits = (number, most) => number.toLocaleString("en-US", { maximumSignificantDigits: most });
const minus = (words) => words.replace("-", "−");
const raised = (power) => [...String(power)].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻").join("");

/** A size in few letters, small ones with a power of ten. */
function short(number, most = 5) {
  const size = Math.abs(number);
  if (size === 0 || size >= 1e-3) return minus(digits(number, most));
  const [head, power] = number.toExponential(2).split("e");
  return minus(`${head}·10${raised(power)}`);
}
