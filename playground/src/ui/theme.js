/** The book's colors, light or dark, as playground.css defines them. */

const NAMES = /** @type {const} */ ([
  "text",
  "muted",
  "background",
  "surface",
  "border",
  "blue",
  "vermillion",
  "green",
  "orange",
  "purple",
  "skyblue",
  "grey",
  "violet",
  "brown",
  "magenta",
  "olive",
]);

/** @typedef {Record<typeof NAMES[number], string> & {font: string}} Theme */

/** @param {Element} element @returns {Theme} */
export function readTheme(element) {
  const style = getComputedStyle(element);
  const theme = /** @type {Theme} */ ({ font: style.fontFamily });
  for (const name of NAMES) theme[name] = style.getPropertyValue(`--pg-${name}`).trim();
  return theme;
}

/**
 * Call a function whenever the reader or the system changes the theme.
 *
 * @param {() => void} listener
 */
export function onThemeChange(listener) {
  new MutationObserver(listener).observe(document.documentElement, {
    attributes: true,
    attributeFilter: ["data-theme", "data-mode"],
  });
}

/** Whether the reader asked the system for less motion. */
export function reducedMotion() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}
