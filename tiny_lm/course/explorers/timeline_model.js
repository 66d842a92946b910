// What link, latency and overlap do to one layer of DeepSeek-V3.
// Plays the tapes of tiny_lm/course/explorers/layer.py as tiny_lm/replay/simulation.py does, to
// the picosecond. Times fit into a float's 53 bits; products of amounts do not.

const PS_PER_S = 10n ** 12n;
const PS_PER_US = 1e6;
const GIGA = 1e9;

/** Time for an amount at a rate, rounded up. */
function takes(amount, perSecond) {
  const rate = BigInt(perSecond);
  return Number((BigInt(amount) * PS_PER_S + rate - 1n) / rate);
}

/** Launch, then the slower of arithmetic and memory. */
function kernelTime(fixed, choice, [flops, bytes, precision]) {
  const place = fixed.speeds.indexOf(choice.speed);
  const work = takes(flops, fixed.rates[precision][place]);
  return fixed.launch_ps + Math.max(work, takes(bytes, fixed.rates.memory[place]));
}

/**
 * An all-to-all: its latency, and the bytes of the busiest port. With a second hop rows are
 * handed on over NVLink, beside the first, so that the busiest port decides, or after it.
 * Exchanges come one after the other, so no port is still taken when one starts.
 */
function exchangeTime(choice, bytes, handed) {
  const gpus = [...bytes.keys()];
  const sum = (amounts) => amounts.reduce((total, amount) => total + amount, 0);
  const others = (gpu) => gpus.filter((peer) => peer !== gpu);
  const ports = gpus.flatMap((gpu) => [
    sum(others(gpu).map((peer) => bytes[gpu][peer])),
    sum(others(gpu).map((peer) => bytes[peer][gpu])),
  ]);
  const first = takes(Math.max(...ports), choice.bandwidth * GIGA);
  const second = takes(Math.max(...handed), choice.nvlink * GIGA);
  const alpha = choice.latency * PS_PER_US;
  if (choice.hops === "series") return first + second + 2 * alpha;
  return alpha + (choice.hops === "pipelined" ? Math.max(first, second) : first);
}

/** Every stream of every GPU with its spans; `step` is when the last one is through. */
function play(fixed, choice) {
  const rows = fixed.programs[choice.overlap];
  const work = fixed.work[choice.tokens];
  const handed = fixed.handed[choice.tokens];
  const gpus = Array.from({ length: fixed.num_gpus }, (_, gpu) => gpu);
  const streams = gpus.flatMap((gpu) =>
    fixed.streams.map((name) => ({
      gpu,
      name,
      rows: rows.filter(([, stream]) => stream === name),
      place: 0,
      now: 0,
      spans: [],
    })),
  );
  const happened = new Map(); // events, by GPU and number
  const arrived = new Map(); // streams that wait in an exchange, by its name
  const add = (stream, name, end, kind) => {
    if (end > stream.now) stream.spans.push({ name, kind, start: stream.now, end });
    stream.now = end;
  };
  const does = {
    kernel(stream, name) {
      const time = kernelTime(fixed, choice, work[name][stream.gpu]);
      add(stream, name, stream.now + time, "kernel");
      return true;
    },
    mark: (stream, event) => happened.set(`${stream.gpu} ${event}`, stream.now),
    wait(stream, event) {
      const when = happened.get(`${stream.gpu} ${event}`);
      if (when === undefined) return false;
      stream.now = Math.max(stream.now, when);
      return true;
    },
    collective(stream, name) {
      if (!arrived.has(name)) arrived.set(name, new Set());
      const here = arrived.get(name).add(stream);
      if (here.size < fixed.num_gpus) return false;
      const ready = Math.max(...[...here].map((other) => other.now));
      const end = ready + exchangeTime(choice, work[name], handed[name]);
      for (const other of here) {
        add(other, name, ready, "wait");
        add(other, name, end, "comm");
        if (other !== stream) other.place++;
      }
      return true;
    },
  };
  const goOn = (stream) => {
    const before = stream.place;
    for (; stream.place < stream.rows.length; stream.place++) {
      const [kind, , what] = stream.rows[stream.place];
      if (!does[kind](stream, what)) break;
    }
    return stream.place > before;
  };
  while (streams.filter(goOn).length);
  return { streams, step: Math.max(...streams.map((stream) => stream.now)) };
}

/** When bytes of this GPU are under way and it computes nothing. */
function exposedPieces({ streams }, gpu) {
  const spans = streams.filter((s) => s.gpu === gpu).flatMap((s) => s.spans);
  const kernels = spans.filter((span) => span.kind === "kernel");
  const pieces = [];
  for (const comm of spans.filter((span) => span.kind === "comm")) {
    let from = comm.start;
    for (const { start, end } of [...kernels, { start: comm.end, end: comm.end }]) {
      if (from < Math.min(start, comm.end)) pieces.push([from, Math.min(start, comm.end)]);
      from = Math.max(from, end);
    }
  }
  return pieces;
}

function exposedTime(fixed, played) {
  const gpus = Array.from({ length: fixed.num_gpus }, (_, gpu) => gpu);
  const pieces = gpus.flatMap((gpu) => exposedPieces(played, gpu));
  return pieces.reduce((total, [from, to]) => total + to - from, 0);
}
