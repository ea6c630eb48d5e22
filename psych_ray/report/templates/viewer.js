"use strict";
// The transcript viewer: one text twice, each response coloured by its NLL under a checkpoint, and where they differ.
// Texts are data: they are set as text nodes only.
{
  const holder = document.getElementById("viewer-data");
  if (holder) {
    const data = JSON.parse(holder.textContent);
    const get = (name) => document.getElementById(`viewer-${name}`);
    const [study, participant, left, right] = ["study", "participant", "left", "right"].map(get);
    const [strip, readout, note] = ["strip", "readout", "note"].map(get);
    const panes = [get("pane-left"), get("pane-right")];
    const names = [get("name-left"), get("name-right")];
    const EDGES = [0.1, 0.3, 0.7, 1.5, 3]; // nats: the legend has the same
    const level = (nll) => EDGES.filter((edge) => nll >= edge).length;
    const nats = (value, signed) =>
      `${signed && value > 0 ? "+" : ""}${value.toFixed(2).replace("-", "\u2212")}`;
    let shown = null; // { one, values: [left, right], differences, at }

    const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : null);
    const differences = (one) => {
      const [a, b] = [one.nll[left.value], one.nll[right.value]];
      return a.map((value, at) => (value === null || b[at] === null ? null : b[at] - value));
    };
    const size = (one) => {
      const values = differences(one).filter((value) => value !== null);
      return values.length ? mean(values) : null;
    };
    const bySize = (a, b) => Math.abs(b.size ?? 0) - Math.abs(a.size ?? 0);

    const fillStudies = () => {
      const best = new Map();
      for (const one of data.transcripts) {
        const entry = { name: one.study, size: size(one) };
        const before = best.get(one.study);
        if (!before || bySize(entry, before) < 0) best.set(one.study, entry);
      }
      const chosen = study.value;
      study.replaceChildren(...[...best.values()].sort(bySize).map(({ name }) => new Option(name, name)));
      if (best.has(chosen)) study.value = chosen;
    };
    const fillParticipants = (keep) => {
      const chosen = participant.value;
      const own = data.transcripts
        .map((one, at) => ({ one, at, size: size(one) }))
        .filter(({ one }) => one.study === study.value)
        .sort(bySize);
      const label = ({ one, size: value }) =>
        `${one.participant} (${one.experiment})${value === null ? "" : `, mean difference ${nats(value, true)}`}`;
      participant.replaceChildren(...own.map((entry) => new Option(label(entry), entry.at)));
      if (keep && own.some(({ at }) => String(at) === chosen)) participant.value = chosen;
    };
    const response = (one, at, side) => {
      const checkpoint = [left, right][side].value;
      const nll = one.nll[checkpoint][at];
      const element = document.createElement("span");
      const [start, end] = one.spans[at];
      element.textContent = one.text.slice(start, end) || "\u2205";
      element.dataset.at = at;
      element.className = `response ${nll === null ? "unscored" : `nll-${level(nll)}`}`;
      element.title = nll === null ? `not scored: ${one.status[checkpoint][at] || "unknown"}` : `${nats(nll)} nats`;
      return element;
    };
    const fillPane = (one, side) => {
      const pieces = [];
      let from = 0;
      one.spans.forEach(([start, end], at) => {
        pieces.push(one.text.slice(from, Math.max(from, start - 2)), response(one, at, side));
        from = end + 2;
      });
      pieces.push(one.text.slice(from));
      panes[side].replaceChildren(...pieces);
      panes[side].scrollTop = 0;
    };
    const SVG = "http://www.w3.org/2000/svg";
    const fillStrip = (values) => {
      const most = Math.max(0.5, ...values.map((value) => Math.abs(value ?? 0)));
      const bars = values.map((value, at) => {
        const bar = document.createElementNS(SVG, "rect");
        const height = (29 * Math.abs(value ?? 0)) / most;
        const place = { x: at + 0.1, width: 0.8, y: value > 0 ? 30 - height : 30, height };
        for (const [name, number] of Object.entries(place)) bar.setAttribute(name, number);
        bar.setAttribute("class", value > 0 ? "worse" : "better");
        return bar;
      });
      strip.setAttribute("viewBox", `0 0 ${Math.max(values.length, 1)} 60`);
      const cursor = document.createElementNS(SVG, "rect");
      cursor.setAttribute("class", "cursor");
      cursor.setAttribute("width", 1);
      cursor.setAttribute("height", 60);
      const zero = document.createElementNS(SVG, "rect");
      const middle = { class: "zero", x: 0, y: 29.6, width: Math.max(values.length, 1), height: 0.8 };
      for (const [name, value] of Object.entries(middle)) zero.setAttribute(name, value);
      strip.replaceChildren(cursor, zero, ...bars);
      get("strip-scale").textContent = `Bars up to ${nats(most)} nats`;
    };
    const told = (value, one, side) => {
      const checkpoint = [left, right][side].value;
      return value === null ? `not scored (${one.status[checkpoint][shown.at] || "unknown"})` : `${nats(value)} nats`;
    };
    const go = (at, scroll = true) => {
      if (!shown || !shown.one.spans.length) return;
      const { one, differences: steps } = shown;
      shown.at = Math.min(one.spans.length - 1, Math.max(0, at));
      panes.forEach((pane) => {
        const before = pane.querySelector(".current");
        if (before) {
          before.classList.remove("current");
          before.tabIndex = -1;
        }
        const element = pane.querySelector(`[data-at="${shown.at}"]`);
        element.classList.add("current");
        element.tabIndex = 0;
        const box = element.getBoundingClientRect(), frame = pane.getBoundingClientRect();
        if (scroll) pane.scrollTop += box.top - frame.top - pane.clientHeight / 2;
      });
      strip.querySelector(".cursor").setAttribute("x", shown.at);
      const [start, end] = one.spans[shown.at];
      const [a, b] = [left, right].map((menu, side) => told(one.nll[menu.value][shown.at], one, side));
      const step = steps[shown.at];
      const parts = [`Response ${one.first + shown.at + 1} of ${one.n_responses}: \u201c${one.text.slice(start, end)}\u201d`];
      parts.push(`left ${a}`, `right ${b}`);
      if (step !== null) parts.push(`right minus left ${nats(step, true)} nats`);
      readout.textContent = parts.join(" \u00b7 ");
    };
    const open = () => {
      const one = data.transcripts[participant.value];
      if (!one) return;
      shown = { one, differences: differences(one), at: 0 };
      shown.ranked = shown.differences
        .map((value, at) => ({ value, at }))
        .filter(({ value }) => value !== null)
        .sort((a, b) => Math.abs(b.value) - Math.abs(a.value))
        .map(({ at }) => at);
      [left, right].forEach((menu, side) => {
        const values = one.nll[menu.value].filter((value) => value !== null);
        const average = mean(values);
        const about = average === null ? "no response is scored" : `mean ${nats(average)} nats`;
        names[side].textContent = `${data.checkpoints[menu.value]}: ${about}`;
        fillPane(one, side);
      });
      fillStrip(shown.differences);
      const all = one.n_characters === one.text.length && one.n_responses === one.spans.length;
      note.textContent = all
        ? `${one.n_responses.toLocaleString("en")} responses.`
        : `Shortened: ${one.text.length.toLocaleString("en")} of ${one.n_characters.toLocaleString("en")} characters, responses ` +
          `${one.first + 1} to ${one.first + one.spans.length} of ${one.n_responses.toLocaleString("en")}.`;
      go(shown.ranked.length ? shown.ranked[0] : 0);
    };
    const rank = (step) => {
      if (!shown || !shown.ranked.length) return;
      const at = shown.ranked.indexOf(shown.at);
      go(shown.ranked[(Math.max(at, step < 0 ? 0 : -1) + step + shown.ranked.length) % shown.ranked.length]);
    };

    data.checkpoints.forEach((name, at) => [left, right].forEach((menu) => menu.append(new Option(name, at))));
    left.value = data.left;
    right.value = data.right;
    study.addEventListener("change", () => (fillParticipants(false), open()));
    participant.addEventListener("change", open);
    for (const menu of [left, right]) menu.addEventListener("change", () => (fillStudies(), fillParticipants(true), open()));
    get("next").addEventListener("click", () => go(shown.at + 1));
    get("previous").addEventListener("click", () => go(shown.at - 1));
    get("next-largest").addEventListener("click", () => rank(1));
    get("previous-largest").addEventListener("click", () => rank(-1));
    strip.addEventListener("click", (event) => {
      const box = strip.getBoundingClientRect();
      go(Math.floor(((event.clientX - box.left) / box.width) * shown.one.spans.length));
    });
    panes.forEach((pane, side) => {
      const other = panes[1 - side];
      pane.addEventListener("click", (event) => {
        const element = event.target.closest(".response");
        if (element) {
          go(Number(element.dataset.at), false);
          element.focus();
        }
      });
      pane.addEventListener("focusin", (event) => {
        const element = event.target.closest(".response");
        if (element && Number(element.dataset.at) !== shown.at) go(Number(element.dataset.at), false);
      });
      pane.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        event.preventDefault();
        go(shown.at + step);
        pane.querySelector(".current").focus({ preventScroll: true });
      });
      pane.addEventListener("scroll", () => {
        const share = pane.scrollTop / Math.max(1, pane.scrollHeight - pane.clientHeight);
        const target = share * (other.scrollHeight - other.clientHeight);
        if (pane.matches(":hover, :focus-within") && Math.abs(other.scrollTop - target) > 2) other.scrollTop = target;
      });
    });
    for (const button of document.querySelectorAll("#viewer [data-pane]")) {
      button.addEventListener("click", () => {
        document.getElementById("viewer").dataset.shown = button.dataset.pane;
        for (const each of document.querySelectorAll("#viewer [data-pane]")) {
          each.setAttribute("aria-pressed", String(each === button));
        }
        go(shown.at);
      });
    }
    fillStudies();
    fillParticipants(false);
    open();
  }
}
