// A pipeline's step drawn, and how all orders do; pipeline_model.js plays them.

const LEFT = 48; // pixels: names of ranks
const NAMES = 118; // names of orders
const RIGHT = 10;
const ROW = 26;
const HEAD = 4;
const MOST_RANKS = 8;

const percent = (share) => `${(100 * share).toFixed(0)} %`;
const plain = (number) => String(+number.toFixed(2));
const spread = (numbers) => {
  const [least, most] = [Math.min(...numbers), Math.max(...numbers)];
  return least === most ? plain(most) : `${plain(least)} to ${plain(most)}`;
};

/** One action: a pair is a box of two halves. */
function actionBox(fixed, { action, start, end }, x, y) {
  const parts = halves(action);
  const width = (x(end) - x(start)) / parts.length;
  const name = `${action.kind} of ${halves(action).map(([, , micro]) => micro).join(" and ")}`;
  const boxes = parts.map(([kind, , micro], place) => {
    const left = x(start) + place * width;
    const color = fixed.colors[kind[0]];
    const box = { class: "bar", fill: color, stroke: color, x: left, y, width, height: ROW - 5 };
    const fits = 7 * String(micro).length + 2 < width;
    return [draw("rect", box), fits ? text(left + width / 2, y + 15, micro) : ""];
  });
  const data = { "data-bar": [action.kind, ...action.which, start, end].join() };
  return draw("g", data, draw("title", {}, name), ...boxes.flat());
}

function key(fixed, y) {
  const names = { F: "forward", B: "backward", W: "weights" };
  return Object.entries(fixed.colors).flatMap(([kind, color], place) => {
    const x = LEFT + 100 * place;
    const box = { class: "bar", fill: color, stroke: color, x, y: y - 10, width: 12, height: 11 };
    return [draw("rect", box), text(x + 17, y, names[kind], "start")];
  });
}

function showOrder(picture, fixed, choice, played) {
  const { rows, length } = played;
  const scale = (picture.width - LEFT - RIGHT) / length;
  const x = (units) => LEFT + units * scale;
  const floor = HEAD + rows.length * ROW;
  const ticks = [0, length / 2, length];
  picture.show(
    "Who does what when; the numbers are micro-batches, empty is waiting",
    `${fixed.titles[choice.order]}: ${choice.micros} micro-batches on ${choice.ranks} ranks, ` +
      `${plain(length)} units; ranks wait for ${spread(played.idle)} of them.`,
    ...ticks.flatMap((units) => [
      line(x(units), 0, x(units), floor, "tick"),
      text(x(units), floor + 15, plain(units), units === length ? "end" : "middle"),
    ]),
    ...rows.flatMap((row, rank) => [
      text(0, HEAD + rank * ROW + 15, `rank ${rank}`, "start"),
      ...row.map((bar) => actionBox(fixed, bar, x, HEAD + rank * ROW)),
    ]),
    ...key(fixed, floor + 36),
  );
}

/** Every order's waiting with the same choice; those that cannot take it say so. */
function showAll(picture, fixed, choice, shares) {
  const most = Math.max(...shares.map(([, share]) => share ?? 0), 0.01);
  const room = picture.width - NAMES - RIGHT - 44;
  const say = ([order, share]) =>
    `${fixed.titles[order]} ${share === undefined ? "does not fit" : percent(share)}`;
  picture.show(
    "Share of the step that a rank waits, in each order",
    `Waiting in each order: ${shares.map(say).join(", ")}.`,
    ...shares.flatMap(([order, share], row) => {
      const y = HEAD + row * 22;
      const chosen = order === choice.order ? "chosen now" : "other";
      const width = share === undefined ? 0 : (share / most) * room;
      const words = share === undefined ? "needs more micro-batches" : percent(share);
      return draw(
        "g",
        { class: chosen, "data-order": order, "data-share": share ?? "none" },
        text(NAMES - 8, y + 13, fixed.titles[order], "end"),
        draw("rect", { x: NAMES, y, width, height: 17 }),
        text(NAMES + width + 6, y + 13, words, "start"),
      );
    }),
  );
}

function render({ model, el }) {
  const fixed = model.get("fixed");
  const choice = { ...model.get("choice") };
  const moved = (name) => (value) => {
    choice[name] = value;
    voice.say(refresh());
    tell(model, choice);
  };
  const { places } = fixed;
  const slider = (name, label, say = String) =>
    new Slider(name, label, places[name], say, moved(name));
  const controls = {
    ranks: slider("ranks", "ranks"),
    micros: slider("micros", "micro-batches"),
    works: slider("works", "F : B : W"),
    sends: slider("sends", "sends", (times) => `${times} × computing`),
    hidden: new Switch("hidden", "pairs hide it", (on) => (on ? "yes" : "no"), moved("hidden")),
    order: new Menu("order", "order", Object.entries(fixed.titles), moved("order")),
  };
  const order = new Picture("order", HEAD + MOST_RANKS * ROW + 44);
  const all = new Picture("all", HEAD + 22 * Object.keys(fixed.titles).length);
  const facts = new Facts();
  const voice = new Voice();

  /** Play and draw `choice`, and put it into words. */
  function refresh() {
    for (const [name, control] of Object.entries(controls)) control.value = choice[name];
    const shares = Object.keys(fixed.titles).map((name) => {
      const found = findSchedule(fixed, choice, name);
      return [name, found && waitingShare(playSchedule(fixed, choice, found))];
    });
    showAll(all, fixed, choice, shares);
    const schedule = findSchedule(fixed, choice);
    if (schedule === undefined) {
      const words = `${fixed.titles[choice.order]} cannot take these counts: more micro-batches`;
      order.show(words, words, text(LEFT, 20, words, "start"));
      facts.show({});
      return words;
    }
    const played = playSchedule(fixed, choice, schedule);
    const alive = peaksAlive(schedule);
    const numbers = {
      "units in a step": [plain(played.length), played.length],
      "units that a rank waits": [spread(played.idle), played.idle.join()],
      "share of the step": [percent(waitingShare(played)), waitingShare(played)],
      "micro-batches kept by a rank": [spread(alive), alive.join()],
      "copies of the parameters": [plain(copiesOf(schedule)), copiesOf(schedule)],
    };
    order.height = HEAD + choice.ranks * ROW + 44;
    showOrder(order, fixed, choice, played);
    facts.show(numbers);
    return Object.entries(numbers).map(([name, [words]]) => `${name}: ${words}`).join("; ");
  }

  const root = makeRoot(
    "Explorer: orders of a pipeline",
    fixed.color,
    make("div", { class: "controls" }, ...Object.values(controls).map((c) => c.element)),
    facts.element,
    order.element,
    all.element,
    voice.element,
  );
  return mount({ model, el }, root, choice, refresh, voice);
}

export default { render };
