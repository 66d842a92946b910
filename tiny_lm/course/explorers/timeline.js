// A layer's timeline and its step at each link speed, drawn; timeline_model.js plays it.

const LEFT = 44; // pixels: names of GPUs, or numbers
const RIGHT = 14;
const LANES = { compute: [0, 18], comm: [20, 15] }; // top and height in a GPU's rows
const ROWS = 42; // a GPU's
const HEAD = 6;
const PS_PER_MS = 1e9;

const milliseconds = (ps) =>
  ps >= PS_PER_MS ? `${(ps / PS_PER_MS).toFixed(2)} ms` : `${(ps / PS_PER_US).toFixed(0)} µs`;
const grouped = (number) => number.toLocaleString("en-US");
const HOPS = {
  one: "one",
  pipelined: "two, pipelined",
  series: "two, in series",
};
const order = (overlap) => (overlap ? "woven into each other" : "one after the other");

/** Round numbers from 0 up to the most, at most six of them. */
function ticks(most) {
  const rough = most / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, n) => n * step);
}

/** A bar, named if its name fits; else by its direction, its last letter. */
function bar(span, x, y, width, height, color) {
  const kind = span.kind === "wait" ? "waits" : "bar";
  const paint = span.kind === "wait" ? {} : { fill: color, stroke: color };
  const box = { class: kind, ...paint, x, y, width, height };
  const fits = [span.name, span.name.at(-1)].find((name) => 6.5 * name.length + 3 < width);
  const { name, start, end } = span;
  return draw(
    "g",
    { "data-span": [name, span.kind, start, end].join() },
    draw("rect", box, draw("title", {}, `${name}: ${milliseconds(end - start)}`)),
    span.kind === "wait" ? "" : text(x + width / 2, y + height - 4.5, fits ?? ""),
  );
}

/** What the colours stand for, in one line. */
function key(fixed, y) {
  const names = new Map(Object.entries(fixed.colors).map(([name, color]) => [color, name]));
  return [...names.set(fixed.color, "exchange")].flatMap(([color, name], place) => {
    const box = { class: "bar", fill: color, stroke: color, y: y - 10, width: 12, height: 11 };
    const x = LEFT + 88 * place;
    return [draw("rect", { ...box, x }), text(x + 17, y, name, "start")];
  });
}

function showTimeline(picture, fixed, choice, played, most) {
  const scale = (picture.width - LEFT - RIGHT) / Math.max(most, played.step);
  const x = (ps) => LEFT + ps * scale;
  const floor = HEAD + fixed.shown.length * ROWS;
  const pieces = [];
  for (const [row, gpu] of fixed.shown.entries()) {
    const top = HEAD + row * ROWS;
    pieces.push(text(0, top + 14, `GPU ${gpu}`, "start"));
    for (const [from, to] of exposedPieces(played, gpu)) {
      const [y, height] = LANES.compute;
      const box = { class: "exposed", x: x(from), width: (to - from) * scale };
      pieces.push(draw("rect", { ...box, y: top + y, height }));
    }
    for (const { name, spans } of played.streams.filter((s) => s.gpu === gpu)) {
      const [y, height] = LANES[name];
      for (const span of spans) {
        const color = fixed.colors[span.name.split(" ")[0]] ?? fixed.color;
        const width = (span.end - span.start) * scale;
        pieces.push(bar(span, x(span.start), top + y, width, height, color));
      }
    }
  }
  const all = Math.max(most, played.step) / PS_PER_MS;
  const exposed = exposedTime(fixed, played) / fixed.num_gpus;
  picture.show(
    "Who does what when: F forward for one micro-batch, B backward for another. " +
      "Full colour: nothing is computed while bytes move",
    `Emulated timeline of GPUs ${fixed.shown.join(", ")} of ${fixed.num_gpus}, two ` +
      `micro-batches ${order(choice.overlap)}: the step takes ${milliseconds(played.step)}, ` +
      `for ${milliseconds(exposed)} of it a GPU computes nothing while bytes move.`,
    ...ticks(all).flatMap((ms) => [
      line(x(ms * PS_PER_MS), 0, x(ms * PS_PER_MS), floor, "tick"),
      text(x(ms * PS_PER_MS), floor + 16, String(+ms.toPrecision(3))),
    ]),
    text(picture.width, floor + 32, "emulated time in ms", "end"),
    ...key(fixed, floor + 50),
    line(x(played.step), 0, x(played.step), floor, "level"),
    ...pieces,
  );
}

/** `curves`: steps at each bandwidth, by the two orders; `least`: without exchanges. */
function showCurve(picture, fixed, choice, curves, least) {
  const floor = picture.height - 38;
  const slowest = fixed.bandwidths[0];
  const range = Math.log(fixed.bandwidths.at(-1) / slowest);
  const room = picture.width - LEFT - RIGHT;
  const x = (rate) => LEFT + (Math.log(rate / slowest) / range) * room;
  const most = Math.max(...curves.get(false));
  const y = (ps) => floor - (ps / most) * (floor - 8);
  const path = (steps) =>
    steps.map((ps, place) => `${x(fixed.bandwidths[place]).toFixed(1)},${y(ps).toFixed(1)}`);
  const kind = (overlap) => (overlap === choice.overlap ? "curve" : "beside");
  const now = curves.get(choice.overlap)[fixed.bandwidths.indexOf(choice.bandwidth)];
  const middle = Math.floor(fixed.bandwidths.length / 4);
  const beside = x(fixed.bandwidths[middle]) + 6;
  picture.show(
    "Step time in ms at each link speed, in GB/s one way (log scale); " +
      "marked: line rates of V3's network and of two chips' NVLink",
    `Step time against link speed, micro-batches ${order(choice.overlap)}: ` +
      fixed.bandwidths
        .map((rate, place) => `${rate} GB/s ${milliseconds(curves.get(choice.overlap)[place])}`)
        .join(", ") +
      `; without communication ${milliseconds(least)}.`,
    line(LEFT, floor, picture.width - RIGHT, floor, "axis"),
    ...ticks(most / PS_PER_MS).map((ms) =>
      text(LEFT - 6, y(ms * PS_PER_MS) + 4, String(+ms.toPrecision(3)), "end"),
    ),
    ...fixed.links.filter(({ short }) => short).flatMap(({ rate, short }) => [
      line(x(rate), 8, x(rate), floor, "tick"),
      text(x(rate), floor + 15, rate),
      text(x(rate), floor + 30, short),
    ]),
    text(x(slowest), floor + 15, slowest),
    text(x(fixed.bandwidths.at(-1)), floor + 15, fixed.bandwidths.at(-1)),
    line(LEFT, y(least), picture.width - RIGHT, y(least), "level"),
    text(LEFT + 4, y(least) + 15, "┄ no communication", "start"),
    ...[...curves].map(([overlap, steps]) =>
      draw("polyline", {
        class: kind(overlap),
        points: path(steps).join(" "),
        "data-overlap": overlap,
        "data-steps": steps.join(),
      }),
    ),
    text(beside, y(curves.get(false)[middle]) - 8, order(false), "start"),
    draw("circle", { class: "now", cx: x(choice.bandwidth), cy: y(now), r: 5 }),
  );
}

// --- the explorer ---

function makeFacts(fixed, step, exposed, withoutBytes, withoutLatency) {
  const share = (ps) => `${milliseconds(ps)} (${((100 * ps) / step).toFixed(0)} %)`;
  return {
    "the step takes": [milliseconds(step), step],
    "of it exposed: nothing computed, bytes under way": [
      share(exposed / fixed.num_gpus),
      exposed,
    ],
    "saved if bytes cost nothing": [share(step - withoutBytes), step - withoutBytes],
    "saved if latency were 0": [share(step - withoutLatency), step - withoutLatency],
  };
}

const PLACES = ["bandwidth", "latency", "tokens", "speed", "overlap", "hops", "nvlink"];

function render({ model, el }) {
  const fixed = model.get("fixed");
  const choice = { ...model.get("choice") };
  const known = new Map(); // what was played, by choice

  const run = (changes = {}) => {
    const asked = { ...choice, ...changes };
    const key = PLACES.map((name) => asked[name]).join();
    if (!known.has(key)) {
      if (known.size > 2000) known.clear();
      known.set(key, play(fixed, asked));
    }
    return known.get(key);
  };

  const moved = (name) => (value) => {
    choice[name] = value;
    voice.say(refresh());
    tell(model, choice);
  };
  const linkName = (rate) => fixed.links.find((link) => link.rate === rate)?.name;
  const sayRate = (rate) => [`${rate} GB/s`, linkName(rate)].filter(Boolean).join(", ");
  const marks = fixed.links.filter(({ short }) => short).map(({ rate, short }) => [rate, short]);
  const slider = (name, label, values, say, below) =>
    new Slider(name, label, values, say, moved(name), below);
  const controls = {
    tokens: slider("tokens", "tokens a GPU", fixed.tokens, grouped),
    latency: slider("latency", "latency α", fixed.latencies, (us) => `${us} µs`),
    speed: slider("speed", "chip", fixed.speeds, (speed) => `${speed} × H800`),
    overlap: new Switch("overlap", "overlap", order, moved("overlap")),
    hops: slider("hops", "hops", fixed.hops, (hops) => HOPS[hops]),
    nvlink: slider("nvlink", "second hop", fixed.nvlinks, (rate) =>
      choice.hops === "one" ? "none" : `${rate} GB/s`,
    ),
    bandwidth: slider("bandwidth", "link", fixed.bandwidths, sayRate, new Map(marks)),
  };
  const timeline = new Picture("timeline", HEAD + fixed.shown.length * ROWS + 54);
  const curve = new Picture("curve", 190);
  const facts = new Facts();
  const voice = new Voice();

  /** Play and draw `choice`, and put it into words. */
  function refresh() {
    for (const [name, control] of Object.entries(controls)) control.value = choice[name];
    const played = run();
    const freeBytes = { bandwidth: fixed.no_limit, nvlink: fixed.no_limit };
    const numbers = makeFacts(
      fixed,
      played.step,
      exposedTime(fixed, played),
      run(freeBytes).step,
      run({ latency: 0 }).step,
    );
    facts.show(numbers);
    const wide = run({ overlap: false, bandwidth: fixed.reference }).step;
    showTimeline(timeline, fixed, choice, played, wide);
    const curves = new Map(
      [false, true].map((overlap) => [
        overlap,
        fixed.bandwidths.map((bandwidth) => run({ overlap, bandwidth }).step),
      ]),
    );
    showCurve(curve, fixed, choice, curves, run({ ...freeBytes, latency: 0 }).step);
    return Object.entries(numbers).map(([name, [words]]) => `${name}: ${words}`).join("; ");
  }

  const root = makeRoot(
    "Explorer: time of a layer",
    fixed.color,
    make("div", { class: "controls" }, ...Object.values(controls).map((c) => c.element)),
    facts.element,
    timeline.element,
    curve.element,
    voice.element,
  );
  return mount({ model, el }, root, choice, refresh, voice);
}

export default { render };
