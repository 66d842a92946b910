// What a bias rate does to the load of experts that are not equally liked.
// The numbers repeat tiny_lm/course/explorers/balance.py, integer for integer.

function mix(x) {
  x ^= x >>> 16;
  x = Math.imul(x, 0x7feb352d);
  x ^= x >>> 15;
  x = Math.imul(x, 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

/** Affinity of each token to each expert, row by row. */
function makeScores(fixed, numExperts, skew) {
  const scores = new Float64Array(fixed.num_tokens * numExperts);
  const last = numExperts - 1;
  for (let token = 0, at = 0; token < fixed.num_tokens; token++) {
    for (let expert = 0; expert < numExperts; expert++, at++) {
      const pair = token * fixed.most + expert;
      const a = mix(2 * pair + 1);
      const b = mix(2 * pair + 2);
      const noise = (a >>> 16) + (a & 0xffff) + (b >>> 16) + (b & 0xffff) - 131070;
      const logit = noise / 32768 + skew * ((last - 2 * expert) / (2 * last));
      const coarse = Math.floor((fixed.grid / fixed.most) / (1 + Math.exp(-logit)));
      scores[at] = (fixed.most * coarse + expert) / fixed.grid;
    }
  }
  return scores;
}

/** How many tokens choose each expert by score plus bias. */
function countLoad(scores, bias, topK) {
  const numExperts = bias.length;
  const load = new Array(numExperts).fill(0);
  const best = new Float64Array(topK);
  const who = new Int32Array(topK);
  for (let row = 0; row < scores.length; row += numExperts) {
    best.fill(-Infinity);
    for (let expert = 0; expert < numExperts; expert++) {
      const choice = scores[row + expert] + bias[expert];
      if (choice <= best[topK - 1]) continue;
      let place = topK - 1;
      for (; place > 0 && choice > best[place - 1]; place--) {
        best[place] = best[place - 1];
        who[place] = who[place - 1];
      }
      best[place] = choice;
      who[place] = expert;
    }
    for (const expert of who) load[expert]++;
  }
  return load;
}

function simulate(fixed, choice) {
  const numExperts = choice.num_experts;
  const scores = makeScores(fixed, numExperts, choice.skew);
  const mean = (fixed.num_tokens * choice.top_k) / numExperts;
  const bias = new Float64Array(numExperts);
  const loads = [];
  const violations = [];
  for (let update = 0; update <= fixed.num_updates; update++) {
    const load = countLoad(scores, bias, choice.top_k);
    loads.push(load);
    violations.push((Math.max(...load) - mean) / mean);
    load.forEach((count, e) => (bias[e] += choice.bias_rate * Math.sign(mean - count)));
  }
  return { loads, violations, outcome: judge(fixed, loads, violations, mean) };
}

/** The update of balance, "later" if it is on the way, "never" if it swings. */
function judge(fixed, loads, violations, mean) {
  let first = violations.length;
  while (first && violations[first - 1] < fixed.balanced) first--;
  if (first <= violations.length - fixed.lasting) return first;
  const late = loads.slice(-fixed.lasting);
  const swings = loads[0].every((_, expert) => {
    const counts = late.map((load) => load[expert]);
    return Math.min(...counts) <= mean && mean <= Math.max(...counts);
  });
  return swings ? "never" : "later";
}

function countParameters(fixed, choice) {
  const router = choice.num_experts * fixed.d_model;
  const of = (routed) => (fixed.num_shared + routed) * fixed.expert_parameters + router;
  return { total: of(choice.num_experts), active: of(choice.top_k) };
}
