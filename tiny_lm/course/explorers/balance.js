// Load, MaxVio and bias rates drawn; the numbers come from balance_model.js.

const LEFT = 8; // pixels around what is drawn
const BELOW = 24;
const ABOVE = 22;

const grouped = (number) => number.toLocaleString("en-US");
const updates = (number) => `${number} update${number === 1 ? "" : "s"}`;

function showLoad(picture, fixed, choice, course) {
  const load = course.loads[choice.step];
  const before = course.loads[0];
  const most = Math.max(...course.loads.map((counts) => Math.max(...counts)));
  const mean = (fixed.num_tokens * choice.top_k) / choice.num_experts;
  const floor = picture.height - BELOW;
  const slot = (picture.width - 2 * LEFT) / load.length;
  const y = (count) => floor - (count / most) * (floor - ABOVE);
  const bar = (count, expert, share, kind) =>
    draw(
      "rect",
      {
        class: kind,
        x: LEFT + (expert + (1 - share) / 2) * slot,
        width: share * slot,
        y: y(count),
        height: floor - y(count),
        "data-load": kind === "now" ? count : null,
      },
      draw("title", {}, `expert ${expert}: ${count} tokens`),
    );
  const busiest = Math.max(...load);
  const above = LEFT + (load.indexOf(busiest) + 0.5) * slot;
  const within = Math.min(Math.max(above, 20), picture.width - 20);
  picture.show(
    `Tokens of ${grouped(fixed.num_tokens)} at each expert after ` +
      `${updates(choice.step)}, in grey before any`,
    `Load of ${load.length} experts after ${updates(choice.step)}: the busiest gets ` +
      `${busiest} tokens, the idlest ${Math.min(...load)}; an even share is ${mean}.`,
    ...before.map((count, expert) => bar(count, expert, 0.9, "before")),
    ...load.map((count, expert) => bar(count, expert, 0.6, "now")),
    line(LEFT, floor, picture.width - LEFT, floor, "axis"),
    line(LEFT, y(mean), picture.width - LEFT, y(mean), "level"),
    text(picture.width / 2, floor + 16, `┄ even share ${mean}`),
    text(within, y(busiest) - 5, grouped(busiest)),
    text(LEFT, floor + 16, "best liked expert", "start"),
    text(picture.width - LEFT, floor + 16, "least liked", "end"),
  );
}

function showViolation(picture, fixed, choice, course) {
  const { violations } = course;
  const left = 30;
  const floor = picture.height - BELOW;
  const most = Math.max(...violations, 2 * fixed.balanced);
  const x = (update) => left + (update / fixed.num_updates) * (picture.width - left - LEFT);
  const y = (violation) => floor - (violation / most) * (floor - ABOVE);
  const now = violations[choice.step];
  const right = choice.step > fixed.num_updates / 2;
  const path = violations.map((v, update) => `${x(update).toFixed(1)},${y(v).toFixed(1)}`);
  picture.show(
    "MaxVio: the busiest expert above an even share",
    `MaxVio over ${fixed.num_updates} updates: ${violations[0].toFixed(2)} before any, ` +
      `${now.toFixed(2)} after ${choice.step}, ${violations.at(-1).toFixed(2)} at the end.`,
    line(left, floor, picture.width - LEFT, floor, "axis"),
    line(left, y(fixed.balanced), picture.width - LEFT, y(fixed.balanced), "level"),
    text(left - 4, y(fixed.balanced) + 4, fixed.balanced, "end"),
    text(left - 4, floor + 4, floor - y(fixed.balanced) > 12 ? 0 : "", "end"),
    text(left - 4, ABOVE + 4, most.toFixed(1), "end"),
    ...[0, 100, 200].map((update) => text(x(update), floor + 16, update)),
    text(picture.width - LEFT, floor + 16, `${fixed.num_updates} updates`, "end"),
    draw("polyline", { class: "curve", points: path.join(" ") }),
    draw("circle", { class: "now", cx: x(choice.step), cy: y(now), r: 5 }),
    text(x(choice.step) + (right ? -8 : 8), y(now) - 8, now.toFixed(2), right ? "end" : "start"),
  );
}

function inWords(fixed, outcome) {
  const words = { later: `not within ${fixed.num_updates}`, never: "never, it swings" };
  return words[outcome] ?? String(outcome ?? "not known yet");
}

/** `outcomes`, by rate, are undefined while they are not known yet. */
function showRates(picture, fixed, choice, outcomes) {
  const rates = fixed.bias_rates.filter((rate) => rate > 0);
  const floor = picture.height - BELOW;
  const slot = (picture.width - 2 * LEFT) / rates.length;
  const middle = (index) => LEFT + (index + 0.5) * slot;
  const height = (outcome) => (Number.isInteger(outcome) ? outcome : 0);
  const most = Math.max(...rates.map((rate) => height(outcomes.get(rate))), 1);
  const short = { later: `>${fixed.num_updates}`, never: "never" };
  const bars = rates.map((rate, index) => {
    const outcome = outcomes.get(rate);
    const tall = (height(outcome) / most) * (floor - ABOVE);
    return draw(
      "g",
      {
        class: rate === choice.bias_rate ? "now" : "other",
        "data-rate": rate,
        "data-value": outcome ?? null,
      },
      draw("rect", {
        x: middle(index) - 0.35 * slot,
        width: 0.7 * slot,
        y: floor - tall,
        height: tall,
      }),
      text(middle(index), floor - tall - 5, short[outcome] ?? outcome ?? "…"),
      text(middle(index), floor + 16, String(rate).replace("0.", ".")),
    );
  });
  picture.show(
    `Updates until MaxVio stays below ${fixed.balanced}, at each bias rate`,
    `Updates until MaxVio stays below ${fixed.balanced}: ` +
      `${rates.map((rate) => `rate ${rate}: ${inWords(fixed, outcomes.get(rate))}`).join("; ")}.`,
    line(LEFT, floor, picture.width - LEFT, floor, "axis"),
    ...bars,
  );
}

// --- the explorer ---

function makeFacts(fixed, choice, course) {
  const { total, active } = countParameters(fixed, choice);
  const now = course.violations[choice.step];
  return {
    [`MaxVio after ${updates(choice.step)}`]: [now.toFixed(2), now],
    [`stays below ${fixed.balanced} from update`]: [
      inWords(fixed, course.outcome),
      course.outcome,
    ],
    "parameters of the layer": [grouped(total), total],
    "used by one token": [
      `${grouped(active)} (${((100 * active) / total).toFixed(0)} %)`,
      active,
    ],
  };
}

function render({ model, el }) {
  const fixed = model.get("fixed");
  const choice = { ...model.get("choice") };
  const known = new Map(); // courses by setting
  let waiting;

  const run = (rate) => {
    const key = [choice.num_experts, choice.top_k, choice.skew, rate].join();
    if (!known.has(key)) {
      if (known.size > 200) known.clear();
      known.set(key, simulate(fixed, { ...choice, bias_rate: rate }));
    }
    return known.get(key);
  };
  const peek = (rate) =>
    known.get([choice.num_experts, choice.top_k, choice.skew, rate].join());

  const moved = (name) => (value) => {
    choice[name] = value;
    choice.top_k = Math.min(choice.top_k, choice.num_experts);
    voice.say(refresh());
    tell(model, choice);
  };
  const steps = Array.from({ length: fixed.num_updates + 1 }, (_, step) => step);
  const sliders = Object.fromEntries(
    [
      ["num_experts", "experts", fixed.num_experts, String],
      ["top_k", "chosen by a token", fixed.top_k, String],
      ["skew", "skew", fixed.skews, (skew) => skew.toFixed(1)],
      ["bias_rate", "bias rate", fixed.bias_rates, (rate) => (rate ? String(rate) : "0 (off)")],
      ["step", "updates", steps, String],
    ].map(([name, label, values, say]) => [
      name,
      new Slider(name, label, values, say, moved(name)),
    ]),
  );
  const load = new Picture("load", 190);
  const violation = new Picture("violation", 170);
  const rates = new Picture("rates", 170);
  const facts = new Facts();
  const voice = new Voice();

  /** Draw `choice`, and put it into words; the other rates follow one by one, to stay responsive. */
  function refresh() {
    for (const [name, slider] of Object.entries(sliders)) slider.value = choice[name];
    sliders.top_k.limit(Math.min(choice.num_experts, fixed.top_k.length));
    const course = run(choice.bias_rate);
    const numbers = makeFacts(fixed, choice, course);
    facts.show(numbers);
    showLoad(load, fixed, choice, course);
    showViolation(violation, fixed, choice, course);
    clearTimeout(waiting);
    compareRates();
    return Object.entries(numbers).map(([name, [words]]) => `${name}: ${words}`).join("; ");
  }

  function compareRates() {
    const all = fixed.bias_rates.filter((rate) => rate > 0);
    const outcomes = new Map(all.map((rate) => [rate, peek(rate)?.outcome]));
    showRates(rates, fixed, choice, outcomes);
    const next = all.find((rate) => !peek(rate));
    root.toggleAttribute("data-busy", next !== undefined);
    if (next === undefined) return;
    waiting = setTimeout(() => {
      run(next);
      compareRates();
    }, 30);
  }

  const root = makeRoot(
    "Explorer: load of experts",
    fixed.color,
    make("div", { class: "controls" }, ...Object.values(sliders).map((s) => s.element)),
    facts.element,
    load.element,
    make("div", { class: "pair" }, violation.element, rates.element),
    voice.element,
  );
  const leave = mount({ model, el }, root, choice, refresh, voice);
  return () => {
    leave();
    clearTimeout(waiting);
  };
}

export default { render };
