"use strict";
// The forest plot: studies of the pair that is chosen, with intervals; hover, focus and tap tell all numbers of a row.
{
  const holder = document.getElementById("forest-data");
  if (holder) {
    const data = JSON.parse(holder.textContent);
    const plot = document.getElementById("forest-plot");
    const menu = document.getElementById("forest-pair");
    const detail = document.getElementById("forest-detail");
    const show = (value, digits = 2) => value.toFixed(digits).replace("-", "\u2212");
    const make = (tag, name, text = "") => {
      const element = document.createElement(tag);
      element.className = name;
      element.textContent = text;
      return element;
    };
    data.pairs.forEach((pair, at) => menu.append(new Option(pair.label, at)));
    const range = (pair) => {
      const values = [0, ...pair.rows.map((row) => row[1])];
      for (const name of ["re_low", "re_high", "pi_low", "pi_high"]) if (pair[name] !== null) values.push(pair[name]);
      const low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
      const pad = 0.25 * (high - low) || 0.1;
      return [low - pad, high + pad];
    };
    const row = (name, values, text, scale, kind) => {
      const [d, low, high] = values;
      const element = make("div", `forest-row ${kind}`);
      element.tabIndex = -1;
      element.setAttribute("role", "listitem");
      const track = make("span", "track");
      const zero = make("i", "zero");
      zero.style.left = `${scale(0)}%`;
      track.append(zero);
      if (values[3] != null && values[4] != null) track.append(bar("band", values[3], values[4], scale));
      if (low !== null && high !== null) track.append(bar("interval", low, high, scale));
      const point = make("i", "point");
      point.style.left = `${scale(d)}%`;
      track.append(point);
      element.append(make("span", "name", name), track, make("span", "value", show(d)));
      element.dataset.detail = text;
      return element;
    };
    const bar = (kind, low, high, scale) => {
      const element = make("i", kind);
      element.style.left = `${scale(low)}%`;
      element.style.width = `${scale(high) - scale(low)}%`;
      return element;
    };
    const interval = (low, high) =>
      low === null || high === null ? "too few participants for an interval" : `95 % interval ${show(low)} to ${show(high)}`;
    const draw = () => {
      const pair = data.pairs[menu.value];
      const [least, most] = range(pair);
      const scale = (value) => Math.min(100, Math.max(0, (100 * (value - least)) / (most - least)));
      const rows = pair.rows.map(([study, d, low, high, participants, responses]) => {
        const counts = [[participants, "participants"], [responses, "responses"]].filter(([n]) => n !== null);
        const n = counts.map(([count, noun]) => `${count.toLocaleString("en")} ${noun}`).join(", ");
        const text = `${data.studies[study]}: d = ${show(d, 3)}, ${interval(low, high)}; ${n}`;
        return row(data.studies[study], [d, low, high], text, scale, "");
      });
      if (pair.re_d !== null) {
        const band = pair.pi_low === null ? "" : `; 95 % prediction interval ${show(pair.pi_low)} to ${show(pair.pi_high)}`;
        const text = `Random-effects mean: d = ${show(pair.re_d, 3)}, ${interval(pair.re_low, pair.re_high)}${band}; ${pair.rows.length} studies`;
        const values = [pair.re_d, pair.re_low, pair.re_high, pair.pi_low, pair.pi_high];
        rows.unshift(row("Random-effects mean", values, text, scale, "mean"));
      }
      plot.replaceChildren(...rows);
      if (rows.length) rows[0].tabIndex = 0;
      detail.textContent = rows.length ? rows[0].dataset.detail : "No study.";
    };
    const tell = (event) => {
      const target = event.target.closest(".forest-row");
      if (target) detail.textContent = target.dataset.detail;
    };
    plot.addEventListener("pointerover", tell);
    plot.addEventListener("focusin", tell);
    plot.addEventListener("click", (event) => {
      const target = event.target.closest(".forest-row");
      if (target) target.focus();
    });
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowUp: "previousElementSibling", ArrowDown: "nextElementSibling" }[event.key];
      const next = step && event.target[step];
      if (!step) return;
      event.preventDefault();
      if (!next) return;
      event.target.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
    menu.addEventListener("change", draw);
    draw();
  }
}
