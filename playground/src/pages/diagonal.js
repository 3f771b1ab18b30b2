/** The playground of the network of depth two. */
import * as diagonal from "../lib/diagonal.js";
import { panel, slider } from "../ui/controls.js";
import { format, h } from "../ui/dom.js";
import { address, frames, mount, status } from "../ui/page.js";
import { player } from "../ui/player.js";
import { Plot } from "../ui/plot.js";

const STEPS = 120;
const TARGET = 1;

mount("diagonal", (root) => {
  const form = panel(
    [
      slider({ key: "eta", label: "learning rate η", min: 0.02, max: 1, value: 0.1, scale: "log" }),
      slider({ key: "s", label: "starting sharpness", min: 2, max: 60, value: 22, step: 0.1 }),
      slider({ key: "r", label: "starting residual", min: -1, max: 1, value: 0.01, step: 0.01 }),
    ],
    changed,
  );
  const drawing = frames(draw);
  const plot = new Plot({
    title: "Sharpness at each step",
    x: { label: "step t", domain: [0, STEPS] },
    y: { label: "sharpness λ₁", domain: [0, 40] },
    redraw: drawing.request,
  });
  const line = status();
  const play = player({ length: () => run.last, moved: drawing.request });
  let run = compute();

  function compute() {
    const { eta, s, r } = form.values();
    const start = diagonal.at(r, Math.sqrt(Math.max(0, s * s - 4 * TARGET * TARGET)), TARGET);
    return diagonal.gradientDescent({ start, y: TARGET, eta, steps: STEPS });
  }
  function changed() {
    run = compute();
    play.refresh();
    link.write();
    drawing.request();
  }
  function draw() {
    const { eta } = form.values();
    const t = play.at();
    const text = `Step ${t}: sharpness ${format(run.sharpness[t])}, threshold ${format(2 / eta)}.`;
    line.say(text);
    plot.describe(text);
    plot.draw(
      String(eta),
      (p) => p.horizontal(2 / eta, { color: "vermillion", dash: [6, 4] }),
      (p) => p.line(Array.from(run.sharpness.keys()), run.sharpness, { color: "blue" }, 0, t),
    );
  }
  const link = address({
    values: form.values,
    set: (values) => {
      form.set(values);
      run = compute();
      play.refresh();
      drawing.request();
    },
  });
  play.refresh();
  root.append(form.element, play.element, line.element, h("div", { class: "pg-plots" }, plot.element), link.element);
  return { form, drawing };
});
