// A number on the line of codes, and a row under its scales, drawn; the arithmetic is in
// codes_model.js.

const SIDE = 8; // pixels beside what is drawn
const BOX = 22; // one bit
const BETWEEN = 34; // between sign, exponent and fraction
const LENS = 2; // steps to either side of the number
const WAY = 32; // a line of words and its bar
const SIZES = { from: -25, to: 20.5 }; // powers of two, of the row's picture
const GUTTER = 34; // left of the row, for its axis
const FATE_WORDS = {
  kept: "all digits of the format",
  faint: "fewer digits (subnormal)",
  zero: "becomes zero",
  cut: "cut off (saturated)",
};

const grouped = (number) => number.toLocaleString("en-US");
function percent(share) {
  const places = share > 0 && share < 0.0995 ? 1 : 0;
  return `${(100 * share).toFixed(places)} %`;
}

const signOf = (choice) => (choice.negative ? -1 : 1);

// --- one number ---

/** A stroke for every code; those with fewer digits in grey. */
function strokes(format, sizes, x, floor) {
  const kind = (size) => (Math.abs(size) < smallestNormal(format) ? "code few" : "code");
  return sizes.map((size) => line(x(size), floor - 16, x(size), floor, kind(size)));
}

function showLine(picture, fixed, choice, found) {
  const format = fixed.formats[choice.format];
  const places = new Line(fixed, picture.width, SIDE);
  const sizes = allSizes(format).slice(1);
  const floor = 46;
  const wide = places.x(format.largest) - places.x(sizes[0]) > 120;
  const [left, right] = wide ? ["start", "end"] : ["end", "start"];
  const x = places.x(found.size);
  picture.show(
    `All sizes of ${format.name}, each doubling equally wide; drag the dot`,
    `The sizes of ${format.name} lie between ${short(sizes[0])} and ${grouped(format.largest)}; ` +
      `the number has a size of ${short(found.size)}: ${FATE_WORDS[found.fate]}.`,
    line(SIDE, floor, picture.width - SIDE, floor, "axis"),
    ...strokes(format, sizes, (size) => places.x(size), floor),
    text(places.x(sizes[0]), floor + 16, short(sizes[0], 3), left),
    text(places.x(format.largest), floor + 16, grouped(format.largest), right),
    line(x, 14, x, floor, "axis"),
    draw("circle", { class: "now", cx: x, cy: 12, r: 8 }),
  );
}

function showBits(picture, fixed, choice, found) {
  const format = fixed.formats[choice.format];
  const { bits, exponent, bias, leading, over } = fieldsOf(format, found.code);
  const fraction = `${over}/${2 ** format.fraction_bits}`;
  const sign = choice.negative ? "−" : "+";
  const high = 1 + format.exponent_bits;
  const parts = [
    ["sign", bits.slice(0, 1), sign],
    ["exponent", bits.slice(1, high), minus(`${exponent + bias} − ${bias} = ${exponent}`)],
    ["mantissa", bits.slice(high), `${leading} + ${fraction}`],
  ];
  const total = bits.length * BOX + 2 * BETWEEN;
  let left = Math.max((picture.width - total) / 2, SIDE);
  const pieces = parts.flatMap(([name, group, meaning]) => {
    const middle = left + (group.length * BOX) / 2;
    const boxes = [...group].flatMap((bit, place) => [
      draw("rect", { class: "bit", x: left + place * BOX, y: 20, width: BOX, height: 24 }),
      text(left + (place + 0.5) * BOX, 36, bit),
    ]);
    left += group.length * BOX + BETWEEN;
    return [text(middle, 14, name), ...boxes, text(middle, 60, meaning)];
  });
  const value = short(signOf(choice) * found.rounded);
  const small = leading ? "" : "; exponent 0 counts as 1, without a leading 1";
  picture.show(
    `The code: ${sign}(${leading} + ${fraction}) · 2${raised(exponent)} = ${value}${small}`,
    `Code ${bits}: sign ${sign}, exponent ${exponent}, mantissa ${fraction}; it is ${value}.`,
    ...pieces,
  );
}

/** The line near the number, which stays in the middle; steps are as wide as they are. */
function showNear(picture, fixed, choice, found) {
  const format = fixed.formats[choice.format];
  const { size, rounded, below, above } = found;
  const reach = Math.max(LENS * stepAt(format, size), 1.1 * (size - rounded));
  const middle = picture.width / 2;
  const x = (at) => middle + ((signOf(choice) * (at - size)) / reach) * (middle - 2 * SIDE);
  const inside = (at) => Math.abs(at - size) <= reach;
  const sizes = allSizes(format);
  const codes = [...sizes.slice(1).map((s) => -s), ...sizes].filter(inside);
  const floor = 62;
  const named = [...new Set([below, above ?? below])].filter(inside);
  const half = above === null || above === below ? [] : [(below + above) / 2];
  const say = (at) => short(signOf(choice) * at, at < 0.1 ? 3 : 5);
  picture.show(
    `Near ${short(signOf(choice) * size, 7)}: the codes beside it, and ┄ the middle between two`,
    `${short(signOf(choice) * size, 7)} goes to ${short(signOf(choice) * rounded)}; ` +
      `beside it: ${named.map(say).join(" and ")}.`,
    line(SIDE, floor, picture.width - SIDE, floor, "axis"),
    ...strokes(format, codes, x, floor),
    ...half.map((at) => line(x(at), floor - 26, x(at), floor, "level")),
    ...named.map((at) => text(clamp(x(at), 26, picture.width - 26), floor + 17, say(at))),
    line(middle, 14, x(rounded), floor - 16, "axis"),
    draw("circle", { class: "now", cx: middle, cy: 14, r: 6 }),
    draw("circle", { class: "plain", cx: x(rounded), cy: floor - 16, r: 3.5 }),
  );
}

// --- a row ---

function showRow(picture, fixed, choice, row, found) {
  const format = fixed.formats[choice.format];
  const floor = picture.height - 6;
  const y = (size) => {
    const power = clamp(Math.log2(size), SIZES.from, SIZES.to);
    return floor - ((power - SIZES.from) / (SIZES.to - SIZES.from)) * (floor - 6);
  };
  const slot = (picture.width - GUTTER - SIDE) / row.length;
  const x = (place) => GUTTER + (place + 0.5) * slot;
  const band = (scale, group, from, to, kind) =>
    draw("rect", {
      class: kind,
      x: GUTTER + group * found.group * slot,
      width: found.group * slot - (found.scales.length > 1 ? 1 : 0),
      y: y(to * scale),
      height: y(from * scale) - y(to * scale),
    });
  const least = smallestNormal(format);
  const ticks = [[1e6, "10⁶"], [1e3, "10³"], [1, "1"], [1e-3, "10⁻³"], [1e-6, "10⁻⁶"]];
  const share = (fate) => percent(found.shares[fate]);
  picture.show(
    "Each number at its size, and the window that each scale opens; hollow: zero or cut off",
    `${row.length} numbers and their windows: ${share("zero")} become zero, ` +
      `${share("faint")} lose digits, ${share("cut")} are cut off.`,
    ...found.scales.flatMap((scale, group) => [
      band(scale, group, smallest(format) / 2, least, "thinning"),
      band(scale, group, least, format.largest, "window"),
    ]),
    ...ticks.map(([size, words]) => text(GUTTER - 5, y(size) + 4, words, "end")),
    line(GUTTER, 4, GUTTER, floor, "axis"),
    draw(
      "g",
      { "data-scales": found.scales, "data-kept": found.kept, "data-fates": found.fates },
      ...row.map((size, place) =>
        draw("circle", {
          class: `dot ${found.fates[place]}`,
          cx: x(place),
          cy: y(size),
          r: place === fixed.outlier_at ? 5 : 2,
        }),
      ),
    ),
  );
}

function showWays(picture, choice, all) {
  const wide = picture.width - 2 * SIDE;
  const rows = all.map((found, place) => {
    const { zero, faint, cut } = found.shares;
    const [top, height] = [place * WAY, 9];
    const words = [`error ${percent(found.error)}`, `${percent(zero)} zero`];
    if (cut > 0) words.push(`${percent(cut)} cut`);
    const bar = (from, share, kind) =>
      draw("rect", { class: kind, x: SIDE + from * wide, width: share * wide, y: top + 17, height });
    const numbers = [found.error, ...Object.values(found.shares)];
    return draw(
      "g",
      {
        class: found.way === choice.way ? "chosen" : null,
        "data-way": found.way,
        "data-numbers": numbers,
      },
      text(SIDE, top + 12, found.name, "start"),
      text(picture.width - SIDE, top + 12, words.join(", "), "end"),
      bar(0, 1, "waits"),
      bar(0, zero, "lit"),
      bar(zero, faint, "before"),
      bar(1 - cut, cut, "plain"),
    );
  });
  picture.show(
    "Every way to share: coloured is zero, grey has fewer digits, at the right what is cut off",
    `Ways to share a scale: ${all
      .map((f) => `${f.name}: error ${percent(f.error)}, ${percent(f.shares.zero)} zero`)
      .join("; ")}.`,
    ...rows,
  );
}

// --- the explorer ---

function makeFacts(fixed, choice, found) {
  const sign = signOf(choice);
  const { size, rounded, below, above, fate } = found;
  const off = Math.abs(rounded - size);
  const around = above === null ? `${short(below)} and none` : `${short(below)} and ${short(above)}`;
  return {
    "stands for": [short(sign * rounded), sign * rounded],
    "is off by": [`${short(off)}, ${percent(off / size)}`, off],
    "sizes beside it": [below === above ? "it is one itself" : around, `${below},${above}`],
    "what becomes of it": [off ? FATE_WORDS[fate] : "exact", fate],
  };
}

function makeRowFacts({ error, shares }) {
  return {
    "error of all but the outlier": [percent(error), error],
    "fewer digits (subnormal)": [percent(shares.faint), shares.faint],
    "became zero": [percent(shares.zero), shares.zero],
    "cut off (saturated)": [percent(shares.cut), shares.cut],
  };
}

function makeControls(fixed, choice, moved) {
  const slider = (name, label, say) =>
    new Slider(name, label, fixed.places[name], say, moved(name));
  const names = Object.entries(fixed.formats).map(([key, { name }]) => [key, name]);
  const power = (k) => `2${raised(k)} to 2${raised(k + 1)}`;
  const number = () => short(signOf(choice) * readNumber(fixed, choice).size, 7);
  const one = {
    format: new Menu("format", "format", names, moved("format")),
    negative: new Switch("negative", "negative", (on) => `sign bit ${+on}`, moved("negative")),
    exponent: slider("exponent", "its doubling", power),
    part: slider("part", "the number", number),
  };
  const row = {
    doublings: slider("doublings", "range of the row", (n) => `1 to ${grouped(2 ** n)}`),
    outlier: slider("outlier", "outlier, times the largest", grouped),
    way: slider("way", "a scale for", (way) => fixed.ways[way].name),
  };
  return { one, row };
}

const panel = (controls) =>
  make("div", { class: "controls" }, ...Object.values(controls).map((c) => c.element));

function render({ model, el }) {
  const fixed = model.get("fixed");
  const choice = { ...model.get("choice") };
  const [facts, rowFacts, voice] = [new Facts(), new Facts(), new Voice()];
  const change = (changes) => {
    Object.assign(choice, changes);
    voice.say(refresh());
    tell(model, choice);
  };
  const { one, row } = makeControls(fixed, choice, (name) => (value) => change({ [name]: value }));
  const pictures = Object.fromEntries(
    Object.entries({ line: 66, bits: 68, near: 84, row: 230, ways: 6 * WAY }).map(
      ([name, height]) => [name, new Picture(name, height)],
    ),
  );
  dragOver(pictures.line, (x, width) => change(new Line(fixed, width, SIDE).at(x)));

  /** Draw `choice`, and put it into words. */
  function refresh() {
    for (const [name, control] of Object.entries({ ...one, ...row })) control.value = choice[name];
    const found = readNumber(fixed, choice);
    const numbers = makeRow(fixed, choice);
    const all = Object.keys(fixed.ways).map((way) => quantizeRow(fixed, choice, numbers, way));
    const chosen = all.find(({ way }) => way === choice.way);
    const said = [makeFacts(fixed, choice, found), makeRowFacts(chosen)];
    facts.show(said[0]);
    rowFacts.show(said[1]);
    showLine(pictures.line, fixed, choice, found);
    showBits(pictures.bits, fixed, choice, found);
    showNear(pictures.near, fixed, choice, found);
    showRow(pictures.row, fixed, choice, numbers, chosen);
    showWays(pictures.ways, choice, all);
    return said.flatMap(Object.entries).map(([name, [words]]) => `${name}: ${words}`).join("; ");
  }

  const { line: whole, bits, near, row: windows, ways } = pictures;
  const root = makeRoot(
    "Explorer: numbers in few bits",
    fixed.color,
    panel(one),
    facts.element,
    whole.element,
    make("div", { class: "pair" }, near.element, bits.element),
    make("p", { class: "part" }, "A row of numbers, held in the same format"),
    panel(row),
    rowFacts.element,
    make("div", { class: "pair" }, windows.element, ways.element),
    voice.element,
  );
  return mount({ model, el }, root, choice, refresh, voice);
}

export default { render };
