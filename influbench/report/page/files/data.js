"use strict";
// What the page knows, and how it makes elements: text from models only ever becomes textContent.
const page = {
  data: JSON.parse(document.getElementById("data").textContent),

  element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  },

  options(select, names, values) {
    select.replaceChildren(...names.map((name, i) => {
      const option = page.element("option", "", name);
      option.value = values ? values[i] : name;
      return option;
    }));
  },

  // Like Python's 4 significant digits; – where there is no number.
  number(value) {
    if (value === null || value === undefined) return "–";
    return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
  },

  colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  },
};
