/**
 * The worker that trains. It answers each request with the steps it took; it does nothing that it
 * was not asked for, so a page that stops asking stops the training.
 */
import { TanhNetwork } from "../lib/mlp.js";
import { NETWORKS, TASKS, TrainingRun, grid } from "../lib/training.js";

/**
 * @typedef {object} Request
 * @property {{network: number, task: number, seed: number, scale: number}} [start] begin a run
 * @property {number} steps at most so many
 * @property {number} eta
 * @property {number} batch
 * @property {number} lag
 */

/**
 * @typedef {object} Answer
 * @property {Float64Array} records a row for each step, its entries as in COLUMNS
 * @property {Float64Array} fit outputs of the network on an even grid of FIT points
 * @property {import("../lib/episodes.js").Episode[]} episodes
 * @property {boolean} diverged
 * @property {number} seconds that the steps took
 */

const FIT = 161;
/** Milliseconds after which an answer is due, so that a change of eta is never waited for. */
const BUDGET = 24;

/** @type {TrainingRun | undefined} */
let run;
/** @type {TanhNetwork | undefined} */
let curve;

self.onmessage = (/** @type {MessageEvent<Request>} */ { data }) => {
  const begin = performance.now();
  /** @type {number[]} */
  const records = [];
  if (data.start) {
    const { network, task, seed, scale } = data.start;
    const inputs = grid(FIT);
    run = new TrainingRun({ widths: NETWORKS[network], task: TASKS[task].f, seed, scale });
    curve = new TanhNetwork(NETWORKS[network], inputs, inputs);
    records.push(...run.measure(data.eta, data.lag));
  }
  if (!run || !curve) return;
  for (let i = 0; i < data.steps && !run.diverged; i++) {
    run.descend(data.eta, data.batch);
    records.push(...run.measure(data.eta, data.lag));
    if (performance.now() - begin > BUDGET) break;
  }
  curve.loss(run.theta);
  /** @type {Answer} */
  const answer = {
    records: Float64Array.from(records),
    fit: curve.outputs().slice(),
    episodes: run.finder.episodes.map(({ start, peak, end, explained, open }) => ({
      start,
      peak,
      end,
      explained,
      open,
    })),
    diverged: run.diverged,
    seconds: (performance.now() - begin) / 1000,
  };
  // Not window.postMessage, which the compiler takes it for: it is handed a list to transfer.
  /** @type {any} */ (self).postMessage(answer, [answer.records.buffer, answer.fit.buffer]);
};
