/** Polarity and drift on a loss of two parameters: chapter "general_losses". */
import {
  REACH,
  describeEnd,
  describeMoment,
  drawDrift,
  drawPlane,
  drawTurn,
} from "../figures/turn.js";
import * as turn from "../lib/turn.js";
import { slider } from "../ui/controls.js";
import { format } from "../ui/dom.js";
import { liveFigure, numbers } from "../ui/live.js";
import { Plot } from "../ui/plot.js";

/** Nothing but its product with the eigenvalues matters. */
const ETA = 1;
const STEPS = 40;

/** @param {DOMStringMap} given */
export function turnFigure(given) {
  const first = numbers(given, { x: 0.2, z: 2.1, second: 0.3, slope: 1 });
  const controls = {
    x: slider({ key: "x", label: "Start, ±x", min: 0.01, max: 0.6, value: first.x, step: 0.01 }),
    z: slider({ key: "z", label: "ηλ₁", min: 1.5, max: 2.3, value: first.z, step: 0.01 }),
    second: slider({ key: "second", label: "ηλ₂", min: 0, max: 1.45, value: first.second, step: 0.01 }),
    slope: slider({ key: "slope", label: "Slope of the sharpness", min: 0, max: 2, value: first.slope, step: 0.05 }),
  };
  const square = (/** @type {number} */ width) => (width > 560 ? 1.15 : 1.05);
  return liveFigure({
    controls,
    presets: {
      "Past the threshold": first,
      "No second curvature": { ...first, second: 0 },
      "Below it, uphill": { ...first, x: 0.3, z: 1.5, second: 1.42 },
      "No slope, no rotation": { ...first, slope: 0 },
    },
    compute({ x, z, second, slope }) {
      const loss = { first: z, second, slope };
      const runs = [x, -x].map((start) => turn.descend(loss, [start, 0], ETA, STEPS));
      const times = Array.from({ length: STEPS + 1 }, (_, t) => t);
      return { key: JSON.stringify([x, z, second, slope]), loss, x, steps: STEPS, runs, times };
    },
    length: () => STEPS,
    rate: () => 4,
    beside: ["plane", "turn"],
    plots: (redraw) => ({
      plane: new Plot({
        title: "Two runs, from +x and −x: drag x",
        x: { label: "x, along v₁", domain: [-REACH.x, REACH.x] },
        y: { label: "y, to sharper ground", domain: [REACH.low, REACH.high] },
        aspect: square,
        equal: true,
        redraw,
      }),
      turn: new Plot({
        title: "How v₁ and the gradient turn",
        x: { label: "x", domain: [-REACH.x, REACH.x] },
        y: { label: "degrees", domain: [-1, 1], format: (v) => `${v}`.replace("-", "−") },
        aspect: square,
        redraw,
      }),
      drift: new Plot({
        title: "The drift, the same from either side",
        x: { label: "step t", domain: [0, STEPS] },
        y: { label: "y", domain: [-1, 1] },
        aspect: (width) => (width > 560 ? 3.2 : 1.5),
        redraw,
      }),
    }),
    connect({ plane, turn: angles, drift }, { changed, show }) {
      for (const plot of [plane, angles]) {
        plot.onDrag((x) => {
          controls.x.set(Number(Math.abs(x).toFixed(2)));
          changed();
        });
      }
      drift.onDrag(show);
    },
    describe(state, { turn: angles, drift }) {
      const { loss, runs } = state;
      const most = turn.angle(loss, [REACH.x, 0]) * (180 / Math.PI);
      angles.y.domain = most > 0 ? [-1.15 * most, 1.15 * most] : [-10, 10];
      const seen = runs[0].ys.filter((y) => Math.abs(y) < 2);
      const size = Math.max(...seen.map(Math.abs), 0.02);
      drift.y.domain = [-1.15 * size, Math.max(0.15 * size, 1.3 * Math.max(...seen))];
      controls.z.hint(`threshold 2, ${loss.first > 2 ? "past it" : loss.first < 2 ? "below it" : "at it"}`);
      controls.second.hint(`ρ = ${format(turn.turning(loss))}`);
      return describeEnd(state);
    },
    draw(state, plots, t) {
      drawPlane(plots.plane, state, t);
      drawTurn(plots.turn, state);
      drawDrift(plots.drift, state, t);
      return describeMoment(state, t);
    },
  });
}
