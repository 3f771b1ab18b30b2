/** Play, pause, step and reset. */
import { button } from "./controls.js";
import { h, uniqueId } from "./dom.js";

/**
 * The four buttons. While playing, `advance` is called once a frame until it returns false.
 *
 * @param {object} options
 * @param {(seconds: number) => boolean} options.advance seconds since the last frame, at most 0.1
 * @param {() => void} options.step
 * @param {() => void} options.reset
 * @param {() => void} [options.start] called when play is pressed
 * @param {(playing: boolean) => void} [options.changed]
 */
export function transport({ advance, step, reset, start, changed }) {
  let frame = 0;
  let last = 0;
  const play = button("Play", () => (frame ? pause() : begin()), { class: "pg-button pg-primary" });

  function begin() {
    start?.();
    last = 0;
    frame = requestAnimationFrame(tick);
    show();
  }
  /** @param {number} now */
  function tick(now) {
    const seconds = last ? Math.min((now - last) / 1000, 0.1) : 1 / 60;
    last = now;
    frame = requestAnimationFrame(tick);
    if (!advance(seconds)) pause();
  }
  function pause() {
    cancelAnimationFrame(frame);
    frame = 0;
    show();
  }
  function show() {
    play.textContent = frame ? "Pause" : "Play";
    changed?.(frame !== 0);
  }
  const element = h(
    "div",
    { class: "pg-transport", role: "group", "aria-label": "Run" },
    play,
    button("Step", () => {
      pause();
      step();
    }),
    button("Reset", () => {
      pause();
      reset();
    }),
  );
  return { element, begin, pause, playing: () => frame !== 0 };
}

/**
 * The four buttons and a slider over the steps of a run that has been computed already.
 *
 * @param {object} options
 * @param {() => number} options.length the last step
 * @param {() => void} options.moved called when the position has changed
 * @param {(length: number) => number} [options.rate] steps a second
 * @param {number} [options.parts] moments to a step through which playing goes
 */
export function player({
  length,
  moved,
  rate = (n) => Math.max(4, Math.min(30, n / 10)),
  parts = 1,
}) {
  let position = Infinity;
  let exact = 0;
  const id = uniqueId("position");
  const range = h("input", { type: "range", id, min: 0, max: 1, step: 1 });
  const output = h("output", { for: id });
  const at = () => Math.min(position, length());

  /** @param {number} next Infinity stands for the end, however long the run becomes */
  function move(next) {
    position = next >= length() ? Infinity : Math.max(0, next);
    refresh();
    moved();
  }
  function refresh() {
    const end = length();
    const step = Math.floor(at());
    range.max = String(end);
    range.value = String(step);
    range.setAttribute("aria-valuetext", `step ${step} of ${end}`);
    output.textContent = `${step} / ${end}`;
  }
  const buttons = transport({
    start: () => {
      if (at() >= length()) move(0);
      exact = at();
    },
    advance: (seconds) => {
      exact += seconds * rate(length());
      const next = Math.floor(exact * parts) / parts;
      if (next !== at()) move(next);
      return at() < length();
    },
    step: () => move(at() >= length() ? 0 : Math.floor(at()) + 1),
    reset: () => move(0),
  });
  range.addEventListener("input", () => {
    buttons.pause();
    move(Number(range.value));
  });
  const element = h(
    "div",
    { class: "pg-player" },
    buttons.element,
    h("label", { for: id, class: "pg-position-label" }, "Step"),
    range,
    output,
  );
  const { begin, pause, playing } = buttons;
  return { element, at, move, refresh, begin, pause, playing };
}
