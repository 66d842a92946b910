// What a context costs: bytes, users of one card and time, for nine ways to keep it.
// Repeats tiny_lm/course/explorers/context.py. Contexts and users are powers of two, so
// products of whole numbers are exact, and quotients are those of Python.

const limited = (number, most) => (most === null ? number : Math.min(number, most));

/** Entries that a layer keeps of so many tokens. */
function countEntries(kept, context) {
  return limited(Math.floor(context / kept.num_tokens), kept.newest);
}

/** One sequence, all layers: bytes kept, bytes read and FLOPs done for a token. */
function contextCost(cache, context) {
  const cost = { cache: 0, read: 0, flops: 0 };
  for (const kept of cache) {
    const count = countEntries(kept, context);
    const read = kept.num_layers * limited(count, kept.most_read);
    cost.cache += kept.num_layers * count * kept.num_bytes;
    cost.read += read * kept.num_bytes;
    cost.flops += read * kept.flops;
  }
  return cost;
}

/** Bytes that one more token adds, on average over a long context. */
function growth(cache) {
  return cache
    .filter((kept) => kept.newest === null)
    .reduce((sum, kept) => sum + (kept.num_layers * kept.num_bytes) / kept.num_tokens, 0);
}

/** The caches of MHA, GQA, MQA and absorbed MLA where the sliders stand. */
function cachesAtShape(fixed, choice) {
  const { heads, groups, d_head: width, d_latent: latent, d_rope: rotary } = choice;
  const all = { num_layers: choice.layers, num_tokens: 1, most_read: null, newest: null };
  const cache = (numbers, flops) => [
    { ...all, num_bytes: numbers * choice.bytes_per_number, flops },
  ];
  const plain = (number) => cache(2 * number * width, 4 * heads * width);
  const absorbed = cache(latent + rotary, 2 * heads * (2 * latent + rotary));
  const kinds = [plain(heads), plain(groups), plain(1), absorbed];
  return fixed.names.map((name, place) => [name, kinds[place]]);
}

/** Reading the weights once, or multiplying them with every user's token. */
function weightsTime(fixed, choice) {
  const [flopsPerS, bytesPerS] = fixed.rates[choice.rates];
  const bytes = choice.weights_gb * fixed.gb;
  return Math.max(bytes / bytesPerS, (choice.batch * bytes) / flopsPerS);
}

/** What one way to keep the context costs; the times are those of its caches. */
function costOf(fixed, choice, [name, cache]) {
  const [flopsPerS, bytesPerS] = fixed.rates[choice.rates];
  const one = contextCost(cache, choice.context);
  const memory = (choice.batch * one.read) / bytesPerS;
  const arithmetic = (choice.batch * one.flops) / flopsPerS;
  const room = fixed.card_bytes - choice.weights_gb * fixed.gb;
  return {
    name,
    lit: fixed.lit.includes(name),
    perToken: growth(cache),
    cache: one.cache,
    users: Math.floor(room / one.cache),
    memory,
    arithmetic,
    limit: memory >= arithmetic ? "memory" : "arithmetic",
    step: weightsTime(fixed, choice) + Math.max(memory, arithmetic),
  };
}

function allCosts(fixed, choice) {
  const caches = [...cachesAtShape(fixed, choice), ...Object.entries(fixed.published)];
  return caches.map((each) => costOf(fixed, choice, each));
}

/** The published model that has this shape, or "own". */
function shapeName(fixed, choice) {
  const same = ([, shape]) =>
    Object.entries(shape).every(([name, value]) => choice[name] === value);
  return Object.entries(fixed.shapes).find(same)?.[0] ?? "own";
}
