/** Small helpers for the elements of a page. */

/**
 * Make an element. Attributes that begin with "on" are listeners; false and undefined are left out.
 *
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, unknown>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === undefined) continue;
    if (name.startsWith("on")) {
      element.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children);
  return element;
}

let count = 0;

/** A name that no other element has. @param {string} stem */
export function uniqueId(stem) {
  count += 1;
  return `pg-${stem}-${count}`;
}

/** A number in at most so many digits, with a true minus sign. @param {number} x @param {number} digits */
export function format(x, digits = 3) {
  if (Number.isNaN(x)) return "undefined";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  const size = Math.abs(x);
  const text =
    size !== 0 && (size >= 1e5 || size < 1e-3)
      ? power(x, digits)
      : String(Number(x.toPrecision(digits)));
  return text.replace("-", "−");
}

/** @param {number} x @param {number} digits */
function power(x, digits) {
  const [mantissa, exponent] = x.toExponential(Math.max(0, Math.min(digits, 2) - 1)).split("e");
  return `${mantissa} × 10${superscript(Number(exponent))}`;
}

/** An integer in raised digits. @param {number} k */
export function superscript(k) {
  return [...String(k)].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("");
}
