// Caches and steps of decoding drawn, row by row; the numbers come from context_model.js.

const SIDE = 8; // pixels beside what is drawn
const HEAD = 24; // above each of the two groups of rows
const ROW = 32; // a line of words, and below it the line of dots
const DOTS = 22; // from the top of a row to its dots
const MARK = 6; // a mark of the axis reaches as far above and below the dots
const SIZES = { from: 3e5, to: 3e13, ticks: [1e6, 1e9, 1e12] }; // bytes
const TIMES = { from: 1e-6, to: 1e3, ticks: [1e-6, 1e-3, 1, 1e3] }; // seconds
const SECOND_HAND = "° what it reads: from public copies of released files, not from its report";
const KILO = 1024; // tokens of context are counted so

const grouped = (number) => number.toLocaleString("en-US");
const short = (number) => number.toLocaleString("en-US", { maximumSignificantDigits: 3 });

/** A number with the largest of its units that leaves at least 1. */
function inUnits(value, units) {
  const [scale, unit] = units.find(([scale]) => value >= scale) ?? units.at(-1);
  return `${short(value / scale)} ${unit}`;
}

const size = (bytes) => inUnits(bytes, [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "KB"]]);
const time = (s) => inUnits(s, [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]]);
const tokens = (number) => (number < KILO ** 2 ? `${number / KILO}K` : `${number / KILO ** 2}M`);
const people = (number) => `${grouped(number)} user${number === 1 ? "" : "s"}`;

/** Rows of two groups on a logarithmic axis: words above, `mark`ed dots below. */
class Rows {
  constructor(picture, axis, costs, numAtShape) {
    Object.assign(this, { picture, axis, costs, numAtShape });
    this.floor = this.top(costs.length - 1) + ROW + 4;
  }

  static height(number) {
    return number * ROW + 2 * HEAD + 24;
  }

  top(place) {
    return place * ROW + HEAD + (place < this.numAtShape ? 0 : HEAD);
  }

  x(value) {
    const { from, to } = this.axis;
    const share = Math.log(value / from) / Math.log(to / from);
    return SIDE + Math.min(Math.max(share, 0), 1) * (this.picture.width - 2 * SIDE);
  }

  /** What stands around the rows: names of the groups, and the axis with its numbers. */
  frame(say) {
    const right = this.picture.width - SIDE;
    const heads = [
      [0, "at the shape chosen"],
      [this.numAtShape, "published, as served"],
    ];
    return [
      line(SIDE, this.floor, right, this.floor, "axis"),
      ...this.axis.ticks.flatMap((tick) => [
        line(this.x(tick), this.floor - MARK, this.x(tick), this.floor, "axis"),
        text(this.x(tick), this.floor + 15, say(tick), this.anchor(tick)),
      ]),
      ...heads.map(([place, words]) =>
        draw("text", { class: "group", x: SIDE, y: this.top(place) - 5 }, words),
      ),
    ];
  }

  across(value, y, kind) {
    return line(this.x(value), y - MARK, this.x(value), y + MARK, kind);
  }

  anchor(tick) {
    if (tick === this.axis.from) return "start";
    return tick === this.axis.to ? "end" : "middle";
  }

  /**
   * A row each: its name, `say(cost)` at the right, and what `mark(cost, y)` draws. The
   * axis and the `level` are marked in every row, below its words.
   */
  rows(level, say, mark) {
    return this.costs.map((cost, place) => {
      const top = this.top(place);
      const { name, perToken, cache, users, memory, arithmetic, step } = cost;
      const numbers = [perToken, cache, users, memory, arithmetic, step];
      return draw(
        "g",
        { "data-row": name, "data-numbers": numbers.join() },
        text(SIDE, top + 11, name, "start"),
        text(this.picture.width - SIDE, top + 11, say(cost), "end"),
        line(SIDE, top + DOTS, this.picture.width - SIDE, top + DOTS, "tick"),
        ...this.axis.ticks.map((tick) => this.across(tick, top + DOTS, "tick")),
        this.across(level, top + DOTS, "axis"),
        ...mark(cost, top + DOTS),
      );
    });
  }
}

const kind = (cost) => (cost.lit ? "lit" : "plain");

function showSizes(picture, fixed, choice, costs) {
  const rows = new Rows(picture, SIZES, costs, fixed.names.length);
  const room = fixed.card_bytes - choice.weights_gb * fixed.gb;
  const words = (cost) => `${size(cost.cache)}, ${people(cost.users)}`;
  picture.show(
    `Cache of one user, and how many users fit; | marks the ${size(room)} beside the weights`,
    `Cache of one user at ${tokens(choice.context)} tokens, and how many users fit into ` +
      `${size(room)}: ${costs.map((cost) => `${cost.name} ${words(cost)}`).join("; ")}.`,
    ...rows.frame(size),
    ...rows.rows(room, words, (cost, y) => [
      draw("circle", { class: kind(cost), cx: rows.x(cost.cache), cy: y, r: 5 }),
    ]),
  );
}

/** Two dots: reading and multiplying; the later one is filled, for it counts. */
function race(rows, cost, y) {
  const look = (limit) => (cost.limit === limit ? kind(cost) : `${kind(cost)} lesser`);
  const [memory, arithmetic] = [rows.x(cost.memory), rows.x(cost.arithmetic)];
  const square = { x: arithmetic - 4.5, y: y - 4.5, width: 9, height: 9 };
  return [
    draw("rect", { class: look("arithmetic"), ...square }),
    draw("circle", { class: look("memory"), cx: memory, cy: y, r: 5 }),
  ];
}

function showTimes(picture, fixed, choice, costs) {
  const rows = new Rows(picture, TIMES, costs, fixed.names.length);
  const weights = weightsTime(fixed, choice);
  const words = (cost) =>
    choice.batch > cost.users ? "no room" : `${time(cost.step)}, ${cost.limit}`;
  picture.show(
    "A step: ● reading caches, ■ multiplying, the longer counts; " +
      `| marks ${time(weights)} for weights`,
    `A step that writes a token for each of ${people(choice.batch)}, and what its caches ` +
      `wait for: ${costs.map((cost) => `${cost.name} ${words(cost)}`).join("; ")}. ` +
      `Weights take ${time(weights)} of it.`,
    ...rows.frame(time),
    ...rows.rows(weights, words, (cost, y) => race(rows, cost, y)),
  );
}

// --- the explorer ---

function makeFacts(fixed, choice, costs) {
  const cost = costs[fixed.names.length - 1];
  const fits = choice.batch <= cost.users;
  const waits = `${time(cost.step)}, caches wait for ${cost.limit}`;
  return {
    "MLA keeps of a token": [`${grouped(cost.perToken)} bytes`, cost.perToken],
    "cache of one user": [size(cost.cache), cost.cache],
    "users that fit beside the weights": [grouped(cost.users), cost.users],
    [`a step, a token for each of ${people(choice.batch)}`]: [
      fits ? waits : `no room; it would take ${waits}`,
      cost.step,
    ],
  };
}

/** The controls by the name of what they set; those in `shape` describe the model. */
function makeControls(fixed, moved, chosen) {
  const slider = (name, label, say = String) =>
    new Slider(name, label, fixed.places[name], say, moved(name));
  const shapes = [...Object.keys(fixed.shapes), "own"].map((name) => [name, name]);
  const bytes = (number) => (number === 1 ? "1 (FP8)" : "2 (BF16)");
  const run = {
    shape: new Menu("shape", "shape of the model", shapes, chosen),
    rates: new Menu("rates", "H800 or H100", Object.entries(fixed.rate_names), moved("rates")),
    weights_gb: slider("weights_gb", "weights on the card", (gb) => `${gb} GB`),
    batch: slider("batch", "users in a step"),
    bytes_per_number: slider("bytes_per_number", "cache, bytes a number", bytes),
    context: slider("context", "tokens of context", tokens),
  };
  const shape = {
    layers: slider("layers", "layers"),
    heads: slider("heads", "query heads"),
    d_head: slider("d_head", "width of a head"),
    groups: slider("groups", "groups of GQA"),
    d_latent: slider("d_latent", "latent of MLA"),
    d_rope: slider("d_rope", "rotary key of MLA"),
  };
  return { run, shape };
}

const panel = (controls) =>
  make("div", { class: "controls" }, ...Object.values(controls).map((c) => c.element));

function render({ model, el }) {
  const fixed = model.get("fixed");
  const choice = { ...model.get("choice") };
  const facts = new Facts();
  const voice = new Voice();

  const change = (changes) => {
    Object.assign(choice, changes);
    choice.groups = Math.min(choice.groups, choice.heads);
    voice.say(refresh());
    tell(model, choice);
  };
  const moved = (name) => (value) => change({ [name]: value });
  const chosen = (name) => {
    details.open = details.open || name === "own";
    change(fixed.shapes[name] ?? {});
  };
  const { run, shape } = makeControls(fixed, moved, chosen);
  const details = make(
    "details",
    {},
    make("summary", {}, "The shape, number by number"),
    panel(shape),
  );
  const number = fixed.names.length + Object.keys(fixed.published).length;
  const sizes = new Picture("sizes", Rows.height(number));
  const times = new Picture("times", Rows.height(number));

  /** Draw `choice`, and put it into words. */
  function refresh() {
    for (const [name, control] of Object.entries({ ...run, ...shape })) {
      control.value = name === "shape" ? shapeName(fixed, choice) : choice[name];
    }
    shape.groups.limit(fixed.places.groups.filter((g) => g <= choice.heads).length);
    const costs = allCosts(fixed, choice);
    const numbers = makeFacts(fixed, choice, costs);
    facts.show(numbers);
    showSizes(sizes, fixed, choice, costs);
    showTimes(times, fixed, choice, costs);
    return Object.entries(numbers).map(([name, [words]]) => `${name}: ${words}`).join("; ");
  }

  const root = makeRoot(
    "Explorer: what a context costs",
    fixed.color,
    panel(run),
    details,
    facts.element,
    make("div", { class: "pair" }, sizes.element, times.element),
    make("p", {}, make("small", {}, SECOND_HAND)),
    voice.element,
  );
  return mount({ model, el }, root, choice, refresh, voice);
}

export default { render };
