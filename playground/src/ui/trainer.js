/** A network that a worker trains while a page watches: what has been recorded, and its buttons. */
import { BATCHES, COLUMNS, LAGS } from "../lib/training.js";
import source from "worker:../worker/network.js";
import { History } from "./history.js";
import { transport } from "./player.js";

/** @typedef {import("../worker/network.js").Answer} Answer */
/** @typedef {import("../worker/network.js").Request} Request */

/** The run ends here: its records are kept in memory. */
export const LAST = 20000;

/**
 * @param {object} options
 * @param {() => Record<string, number>} options.values of the controls: net, task, seed and scale, of
 *     which each run is made, and eta, batch and lag, which act on the next step
 * @param {() => number} options.speed steps a second
 * @param {() => void} options.changed called when there is something new to draw
 */
export function trainer({ values, speed, changed }) {
  /** @type {Worker | undefined} */
  let worker;
  let runs = 0;
  let history = new History(COLUMNS);
  /** @type {Answer | undefined} */
  let latest;
  let busy = false;
  let broken = "";
  /** Steps to be taken: asked for by the button, and due while playing. */
  let asked = 0;
  let due = 0;
  /** When steps were taken, for their rate. @type {{at: number, step: number}[]} */
  let pace = [];
  /** The step up to which the run goes by itself to the threshold, and whether it is there now. */
  let lead = 0;
  let arrived = false;

  const run = transport({
    start: () => {
      if (ended()) restart();
      due = lead = 0;
      arrived = false;
      pace = [];
    },
    advance: (seconds) => {
      // What a slow machine cannot keep up with is not made up for later.
      due = Math.min(due + seconds * speed(), Math.max(1, 0.1 * speed()));
      request();
      return !ended();
    },
    step: () => {
      if (ended()) return;
      due = lead = 0;
      arrived = false;
      asked += 1;
      request();
    },
    reset: () => restart(),
    changed: (playing) => {
      if (!playing) due = 0;
      changed();
    },
  });

  function ended() {
    return broken !== "" || latest?.diverged === true || history.length > LAST;
  }

  /**
   * End the worker, in the midst of whatever it does, and begin the run anew in another.
   *
   * @param {number} [leading] the run goes by itself to where the sharpness passes 2 / eta, but no
   *     further than to this step
   */
  function restart(leading = 0) {
    worker?.terminate();
    runs += 1;
    history = new History(COLUMNS);
    latest = undefined;
    broken = "";
    asked = due = 0;
    lead = leading;
    arrived = false;
    pace = [];
    const { net, task, seed, scale } = values();
    try {
      const at = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      worker = new Worker(at);
      URL.revokeObjectURL(at);
    } catch {
      fail();
      return;
    }
    worker.onmessage = receive;
    worker.onerror = fail;
    busy = true;
    worker.postMessage(message(0, { network: net, task, seed, scale }));
    changed();
  }

  function fail() {
    broken = "This browser lets the page start no worker, which is what trains the network.";
    busy = false;
    changed();
  }

  /** @param {number} steps @param {Request["start"]} [start] @returns {Request} */
  function message(steps, start) {
    const { eta, batch, lag } = values();
    return { start, steps, eta, batch: BATCHES[batch], lag: LAGS[lag] };
  }

  /** Ask for the steps that are due, unless an answer is awaited: then they wait too. */
  function request() {
    const wanted = Math.min(asked + Math.floor(due), LAST + 1 - history.length);
    if (busy || wanted < 1 || !worker || ended()) return;
    busy = true;
    worker.postMessage(message(wanted));
  }

  /** @param {MessageEvent<Answer>} event */
  function receive({ data }) {
    busy = false;
    const before = history.length;
    history.append(data.records);
    latest = data;
    let taken = history.length - Math.max(before, 1);
    const pressed = Math.min(asked, taken);
    asked -= pressed;
    taken -= pressed;
    due = Math.max(0, due - taken);
    pace.push({ at: performance.now(), step: history.length });
    while (pace[0].at < performance.now() - 2000) pace.shift();
    if (lead > 0) {
      arrived = history.length > lead || !(history.last("lambda1") <= 2 / values().eta);
      if (arrived) lead = 0;
      else asked = 1;
    }
    if (asked > 0) request();
    changed();
  }

  return {
    element: run.element,
    restart,
    ended,
    playing: run.playing,
    history: () => history,
    latest: () => latest,
    runs: () => runs,
    busy: () => busy,
    broken: () => broken,
    leading: () => lead > 0,
    arrived: () => arrived,
    /** Steps a second of late, 0 if unknown. */
    rate() {
      const span = pace.length > 1 ? pace[pace.length - 1].at - pace[0].at : 0;
      return span > 0 ? ((pace[pace.length - 1].step - pace[0].step) / span) * 1000 : 0;
    },
  };
}
