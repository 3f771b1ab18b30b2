/** A run near a curve of minima, of either of two networks: chapter "manifold_of_minima". */
import {
  WINDOW,
  describeEnd,
  describeMoment,
  drawAccount,
  drawPlane,
  drawSharpness,
} from "../figures/pair.js";
import * as pair from "../lib/pair.js";
import { choice, dragControls, slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { liveFigure, numbers } from "../ui/live.js";
import { Plot } from "../ui/plot.js";

const Y = 1;
const STEPS = 100;
/** @type {pair.Name[]} */
const NAMES = ["linear", "tanh"];

/** @param {Record<string, number>} given @returns {import("../figures/pair.js").State} */
function compute({ net, eta, a, b }) {
  const name = NAMES[net];
  /** @type {pair.Pair} */
  const start = [a, b];
  const run = pair.descend(name, start, Y, eta, STEPS);
  return {
    key: JSON.stringify([net, eta, a, b]),
    name,
    eta,
    y: Y,
    start,
    run,
    account: pair.account(run),
    law: pair.reflectedEnd(name, start, Y, eta),
    times: run.a.map((_, t) => t),
  };
}

/** @param {DOMStringMap} given */
export function pairFigure(given) {
  const first = numbers(given, { net: 0, eta: 0.4, a: 0.44, b: 2.28 });
  const controls = {
    net: choice({ key: "net", label: "Network", options: ["f = a b", "f = b tanh a"], value: first.net }),
    eta: slider({ key: "eta", label: "Learning rate η", min: 0.25, max: 0.6, value: first.eta, step: 0.005 }),
    a: slider({ key: "a", label: "Start, a", min: WINDOW.a[0], max: WINDOW.a[1], value: first.a, step: 0.01 }),
    b: slider({ key: "b", label: "Start, b", min: WINDOW.b[0], max: WINDOW.b[1], value: first.b, step: 0.01 }),
  };
  const square = (/** @type {number} */ width) => (width > 560 ? 1.15 : 1.05);
  const domain = () => /** @type {[number, number]} */ ([0, 1]);
  return liveFigure({
    controls,
    main: "eta",
    presets: {
      "Two linear layers": first,
      "A tanh neuron": { ...first, net: 1, a: 0.4, b: 2.64 },
      "From below, pushed": { ...first, a: 0.62, b: 2.05 },
      "Stable": { ...first, eta: 0.35 },
    },
    compute,
    length: (state) => state.run.last,
    rate: () => 10,
    beside: ["plane", "sharp"],
    plots: (redraw) => ({
      plane: new Plot({
        title: "The curve of minima: drag the start",
        x: { label: "a", domain: WINDOW.a },
        y: { label: "b", domain: WINDOW.b },
        aspect: square,
        equal: true,
        redraw,
      }),
      sharp: new Plot({
        title: "Sharpness of the minimum ahead",
        x: { label: "step t", domain: domain() },
        y: { label: "sharpness", domain: domain() },
        aspect: square,
        redraw,
      }),
      account: new Plot({
        title: "Rotation pays for flatness",
        x: { label: "log of the sharpness lost", domain: domain() },
        y: { label: "sum of squared angles", domain: domain() },
        aspect: (width) => (width > 560 ? 2.6 : 1.3),
        redraw,
      }),
    }),
    connect({ plane, sharp }, { changed, show }) {
      dragControls(plane, changed, controls.a, controls.b);
      sharp.onDrag(show);
    },
    describe(state, { sharp, account }) {
      const { eta, run, law, account: sums } = state;
      const levels = [...run.sharpness, 2 / eta, ...(law > 0 ? [law] : [])];
      const [low, high] = [Math.min(...levels), Math.max(...levels)];
      const margin = 0.12 * Math.max(high - low, 0.02 * high);
      sharp.x.domain = [0, Math.max(1, run.last)];
      sharp.y.domain = [low - margin, high + margin];
      const most = 1.1 * Math.max(...sums.spent, ...sums.lost, 0.01);
      account.x.domain = account.y.domain = [Math.min(0, ...sums.lost), most];
      controls.eta.hint(`2/η = ${format(2 / eta)}`);
      controls.b.hint(`minimum ahead: sharpness ${format(run.sharpness[0] ?? NaN)}`);
      return describeEnd(state);
    },
    draw(state, plots, t) {
      drawPlane(plots.plane, state, t);
      drawSharpness(plots.sharp, state, t);
      drawAccount(plots.account, state, t);
      return describeMoment(state, t);
    },
  });
}
