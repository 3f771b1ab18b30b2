/** A network in training, at a rate that is changed as it goes: chapter "edge_of_stability". */
import { describeRun, drawLoss, drawSpectrum } from "../figures/network.js";
import { panel, presetButtons, slider } from "../ui/controls.js";
import { format, h } from "../ui/dom.js";
import { ceiling } from "../ui/history.js";
import { numbers, pictures } from "../ui/live.js";
import { bar, frames, status } from "../ui/page.js";
import { Plot } from "../ui/plot.js";
import { reducedMotion } from "../ui/theme.js";
import { trainer } from "../ui/trainer.js";

/** The run, as in the playground's first preset. */
const RUN = { net: 1, task: 0, scale: 0.5, seed: 1, batch: 0, lag: 2, axis: 0 };
const SPEED = 60;
/** Where the reader asked for less motion. */
const SLOW = 10;

/** @param {DOMStringMap} given */
export function networkFigure(given) {
  const first = numbers(given, { eta: 0.5 });
  const rate = slider({
    key: "eta",
    label: "Learning rate η",
    min: 0.05,
    max: 1.5,
    value: first.eta,
    scale: "log",
    say: (eta) => `${format(eta)}, threshold ${format(2 / eta)}`,
  });
  const drawing = frames(draw);
  const form = panel([rate], changed, [rate]);
  const presets = presetButtons(
    "While it trains",
    { "η = 0.5": first, "η = 0.25": { eta: 0.25 }, "η = 0.05": { eta: 0.05 } },
    show,
  );
  const values = () => ({ ...RUN, ...form.values() });
  const aspect = (/** @type {number} */ width) => (width > 560 ? 2.6 : 1.3);
  const x = () => ({ label: "step", domain: /** @type {[number, number]} */ ([0, 300]) });
  const spectrum = new Plot({
    title: "The sharpness, and the threshold",
    x: x(),
    y: { label: "λ₁", domain: [0, 1] },
    aspect,
    redraw: drawing.request,
  });
  const loss = new Plot({
    title: "Training loss",
    x: x(),
    y: { label: "loss", domain: [1e-3, 1], log: true },
    aspect: (width) => (width > 560 ? 3.4 : 1.6),
    redraw: drawing.request,
  });
  for (const plot of [spectrum, loss]) plot.element.classList.add("pg-wide");
  const line = status();
  const speed = reducedMotion() ? SLOW : SPEED;
  const training = trainer({ values, speed: () => speed, changed: drawing.request });

  /** @param {Record<string, number>} values */
  function show(values) {
    form.set(values);
    changed();
  }

  function changed() {
    presets.mark(form.values());
    drawing.request();
  }

  function draw() {
    const history = training.history();
    const last = Math.max(0, history.length - 1);
    const end = Math.max(300, ceiling(1.02 * last));
    const view = {
      history,
      latest: training.latest(),
      values: values(),
      first: 0,
      last,
      end,
      at: (/** @type {number} */ step) => step,
      kept: [],
      speak: true,
    };
    spectrum.x.domain = loss.x.domain = [0, end];
    rate.hint(`2/η = ${format(2 / rate.get())}`);
    drawSpectrum(spectrum, view, true);
    drawLoss(loss, view);
    line.say(training.broken() || describeRun(view));
  }

  training.restart();
  changed();
  return {
    elements: [
      h(
        "div",
        { class: "pg-main" },
        pictures([spectrum.element, loss.element], bar(training.element, rate.element)),
        line.element,
        presets.element,
        form.element,
      ),
    ],
    values: form.values,
    show,
    at: () => training.history().length - 1,
    busy: training.busy,
    history: training.history,
    latest: training.latest,
    times: drawing.times,
  };
}
