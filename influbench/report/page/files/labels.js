"use strict";
// Names of points that cover neither each other nor a point; those without room are named on hover.
// Points on the front are named first. at(point): pixels from the upper left corner.
page.labels = function (points, at, width) {
  const [WIDE, HIGH, NEAR] = [7, 15, 7]; // pixels: a letter, a line, a marker's radius
  const taken = points.map((point) => {
    const [x, y] = at(point);
    return [x - NEAR, y - NEAR, x + NEAR, y + NEAR];
  });
  const places = {
    "top left": (x, y, w) => [x - w, y - HIGH - NEAR], "bottom right": (x, y) => [x, y + NEAR],
    "top right": (x, y) => [x, y - HIGH - NEAR], "bottom left": (x, y, w) => [x - w, y + NEAR],
    "middle right": (x, y) => [x + NEAR, y - HIGH / 2], "middle left": (x, y, w) => [x - w - NEAR, y - HIGH / 2],
  };
  const found = new Map();
  const order = [...points].sort((a, b) => Number(b.front) - Number(a.front));
  for (const point of order) {
    const w = point.label.length * WIDE;
    for (const [name, corner] of Object.entries(places)) {
      const [left, top] = corner(...at(point), w);
      const box = [left, top, left + w, top + HIGH];
      const free = taken.every((other) => box[2] <= other[0] || other[2] <= box[0] || box[3] <= other[1] || other[3] <= box[1]);
      if (free && left >= 0 && box[2] <= width) {
        taken.push(box);
        found.set(point, name);
        break;
      }
    }
  }
  return found;
};
