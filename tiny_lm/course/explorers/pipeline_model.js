// Who waits in a pipeline. Plays the schedules of tiny_lm/parallel/whole_schedules.py as
// tiny_lm/parallel/bubbles.py does. Lengths are multiples of 1/8: sums are exact.

const KINDS = { F: "F", B: "B", W: "W", D: "BW", P: "FB" };

/** A row's actions from its text: letter, then stage and micro-batch of each half. */
function readRow(written) {
  const actions = [];
  for (let place = 0; place < written.length; ) {
    const kind = KINDS[written[place]];
    const count = kind === "FB" ? 4 : 2;
    const digits = [...written.slice(place + 1, place + 1 + count)];
    actions.push({ kind, which: digits.map((digit) => parseInt(digit, 36)) });
    place += 1 + count;
  }
  return actions;
}

/** The schedule of this order, or undefined where its counts do not fit. */
function findSchedule(fixed, choice, order = choice.order) {
  const found = fixed.written[`${order} ${choice.ranks} ${choice.micros}`];
  if (found === undefined) return undefined;
  const [stages, ...rows] = found;
  return { stages, share: choice.ranks / stages, rows: rows.map(readRow) };
}

/** A pair as its forward and its backward; another action as itself. */
function halves({ kind, which }) {
  if (kind !== "FB") return [[kind, ...which]];
  return [["F", ...which.slice(0, 2)], ["BW", ...which.slice(2)]];
}

/** F, B and W, each of one stage and micro-batch. */
function worksOf(action) {
  return halves(action).flatMap(([kind, ...which]) =>
    (kind === "BW" ? ["B", "W"] : [kind]).map((one) => [one, ...which]),
  );
}

function needsOf(action, stages) {
  return halves(action).flatMap(([kind, stage, micro]) => {
    if (kind === "W") return [["B", stage, micro]];
    if (kind === "F") return stage > 0 ? [["F", stage - 1, micro]] : [];
    const behind = stage + 1 < stages ? [["B", stage + 1, micro]] : [];
    return [["F", stage, micro], ...behind];
  });
}

/** How long an action takes, computing and sending. */
function lengthOf(fixed, choice, kind) {
  const [f, b, w] = fixed.works[choice.works];
  const computing = { F: f, B: b, W: w, BW: b + w, FB: f + b + w }[kind];
  const forward = choice.sends * f;
  const backward = choice.sends * (b + w);
  const sending = { F: forward, B: backward, W: 0, BW: backward, FB: forward + backward }[kind];
  return kind === "FB" && choice.hidden ? Math.max(computing, sending) : computing + sending;
}

/** Bars of each rank, the step's length, and how long each rank waits. */
function playSchedule(fixed, choice, schedule) {
  const ends = new Map();
  const rows = schedule.rows.map(() => []);
  for (let going = true; going; ) {
    going = false;
    for (const [rank, actions] of schedule.rows.entries()) {
      while (rows[rank].length < actions.length) {
        const action = actions[rows[rank].length];
        const needs = needsOf(action, schedule.stages).map(String);
        if (!needs.every((need) => ends.has(need))) break;
        const free = rows[rank].at(-1)?.end ?? 0;
        const start = Math.max(free, ...needs.map((need) => ends.get(need)));
        const end = start + lengthOf(fixed, choice, action.kind) * schedule.share;
        for (const work of worksOf(action)) ends.set(String(work), end);
        rows[rank].push({ action, start, end });
        going = true;
      }
    }
  }
  const length = Math.max(...rows.map((row) => row.at(-1).end));
  const busy = (row) => row.reduce((total, { start, end }) => total + end - start, 0);
  return { rows, length, idle: rows.map((row) => length - busy(row)) };
}

/** Micro-batches whose activations each rank keeps at its worst moment. */
function peaksAlive(schedule) {
  return schedule.rows.map((actions) => {
    let alive = 0;
    let peak = 0;
    for (const action of actions) {
      const steps = worksOf(action).map(([kind]) => (kind === "F") - (kind === "B"));
      const most = alive + Math.max(0, ...steps);
      alive += steps.reduce((total, step) => total + step, 0);
      peak = Math.max(peak, most);
    }
    return peak * schedule.share;
  });
}

/** How many copies of each stage all ranks hold together. */
function copiesOf(schedule) {
  const held = schedule.rows.map(
    (row) => new Set(row.flatMap(worksOf).map(([, stage]) => stage)).size,
  );
  return held.reduce((total, count) => total + count, 0) / schedule.stages;
}

/** Share of the step in which a rank waits, on average. */
function waitingShare({ idle, length }) {
  return idle.reduce((total, time) => total + time, 0) / (idle.length * length);
}
