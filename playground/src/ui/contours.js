/** Lines of equal height, traced by d3-contour on a grid over what a plot shows. */
import { contours } from "d3-contour";

const CELLS = 90;

/**
 * @param {import("./plot.js").Painter} painter
 * @param {(x: number, y: number) => number} f
 * @param {number[]} levels
 * @param {import("./plot.js").Style} style
 */
export function drawContours(painter, f, levels, style) {
  const [x0, x1] = painter.x.domain();
  const [y0, y1] = painter.y.domain();
  // Two cells on each side lie outside, where the traced areas close along the border.
  const dx = (x1 - x0) / (CELLS - 4);
  const dy = (y1 - y0) / (CELLS - 4);
  const xs = Array.from({ length: CELLS }, (_, i) => x0 + (i - 1.5) * dx);
  const ys = Array.from({ length: CELLS }, (_, j) => y0 + (j - 1.5) * dy);
  const values = ys.flatMap((y) => xs.map((x) => f(x, y)));
  const trace = contours().size([CELLS, CELLS]);
  for (const level of levels) {
    for (const polygon of trace.contour(values, level).coordinates) {
      for (const ring of polygon) {
        // Sample (i, j) lies at (i + 0.5, j + 0.5) for d3-contour.
        painter.line(
          ring.map(([u]) => xs[0] + (u - 0.5) * dx),
          ring.map(([, v]) => ys[0] + (v - 0.5) * dy),
          style,
        );
      }
    }
  }
}
