// Lines with bands on a canvas, by uPlot: linear or logarithmic, zoomed by dragging, read with the pointer or ← and →.

import { variable } from "./colours.js";
import { h, swatch } from "./dom.js";
import { short } from "./format.js";

const FONT = "12px system-ui, sans-serif";

/**
 * A chart in `parent`. `update` draws:
 *   curves: [{name, colour, dash, width, x, y, low, high, fill, points}], arrays of equal length; low and high may be null
 *   x, y: {label, log, range, format}; target: a value of y to be marked, or null; diagonal: whether y = x is drawn
 */
export class Chart {
  constructor(parent, label, height = 240) {
    this.height = height;
    this.box = h("div", { class: "chart", tabindex: 0, role: "img", "aria-label": label });
    this.box.chart = this; // for whoever inspects the page
    this.tip = h("div", { class: "tip", hidden: true });
    this.empty = h("p", { class: "empty", hidden: true });
    parent.append(h("div", { class: "chart-frame" }, this.box, this.tip, this.empty));
    this.box.addEventListener("keydown", (event) => this.#onKey(event));
    this.box.addEventListener("blur", () => this.#hideTip());
    new ResizeObserver(() => this.#resize()).observe(this.box);
  }

  update(drawing) {
    const shown = { ...drawing, curves: drawing.curves.map((curve) => visible(curve, drawing.x.log)) };
    shown.curves = shown.curves.filter((curve) => curve.x.length);
    this.drawing = shown;
    this.empty.hidden = shown.curves.length > 0;
    this.empty.textContent = drawing.empty ?? "Nothing was measured yet.";
    this.#hideTip();
    this.plot?.destroy();
    this.plot = null;
    this.box.classList.toggle("blank", !shown.curves.length);
    if (!shown.curves.length) return;
    const data = window.uPlot.join(shown.curves.map((curve) => [curve.x, curve.y]));
    this.plot = new window.uPlot(this.#options(shown), data, this.box);
  }

  #options({ curves, x, y }) {
    const ink = variable("--soft");
    const grid = { stroke: variable("--line"), width: 1 };
    const axis = { stroke: ink, font: FONT, labelFont: FONT, grid, ticks: { ...grid, size: 4 }, labelSize: 20 };
    return {
      width: this.#width(),
      height: this.height,
      legend: { show: false },
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false } },
      scales: {
        x: { time: false, distr: x.log ? 3 : 1, range: x.range ?? ((_, low, high) => (low === high ? [low - 1, high + 1] : [low, high])) },
        y: { range: y.range ?? (() => extent(curves)) },
      },
      axes: [
        { ...axis, label: x.label, size: 32, splits: x.log ? decades : undefined, filter: x.log ? (_, splits) => splits : undefined, values: (_, splits) => splits.map((value) => (x.format ?? short)(value)) },
        { ...axis, label: y.label, size: 46, space: 22, values: (_, splits) => splits.map((value) => (y.format ?? short)(value)) },
      ],
      series: [
        {},
        ...curves.map((curve) => ({
          label: curve.name,
          stroke: curve.colour,
          width: curve.width ?? 2,
          dash: curve.dash?.length ? curve.dash : undefined,
          spanGaps: true,
          points: { show: Boolean(curve.points) || curve.x.length === 1, size: 6, fill: curve.colour },
        })),
      ],
      hooks: {
        drawClear: [(plot) => this.#drawBands(plot)],
        draw: [(plot) => this.#drawMarks(plot)],
        setCursor: [(plot) => this.#showTip(plot)],
      },
    };
  }

  #drawBands(plot) {
    const { ctx } = plot;
    ctx.save();
    clip(plot);
    for (const curve of this.drawing.curves) {
      if (!curve.low) continue;
      ctx.beginPath();
      curve.x.forEach((x, k) => ctx[k ? "lineTo" : "moveTo"](plot.valToPos(x, "x", true), plot.valToPos(curve.high[k], "y", true)));
      for (let k = curve.x.length - 1; k >= 0; k--) {
        ctx.lineTo(plot.valToPos(curve.x[k], "x", true), plot.valToPos(curve.low[k], "y", true));
      }
      ctx.closePath();
      ctx.globalAlpha = curve.fill ?? 0.16;
      ctx.fillStyle = curve.colour;
      ctx.fill();
    }
    ctx.restore();
  }

  #drawMarks(plot) {
    const { ctx } = plot;
    const { target, diagonal } = this.drawing;
    ctx.save();
    clip(plot);
    ctx.strokeStyle = variable("--soft");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([2 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    if (target !== null && target !== undefined) {
      const y = Math.round(plot.valToPos(target, "y", true));
      ctx.moveTo(plot.bbox.left, y);
      ctx.lineTo(plot.bbox.left + plot.bbox.width, y);
    }
    if (diagonal) {
      ctx.moveTo(plot.valToPos(0, "x", true), plot.valToPos(0, "y", true));
      ctx.lineTo(plot.valToPos(1, "x", true), plot.valToPos(1, "y", true));
    }
    ctx.stroke();
    ctx.restore();
  }

  #showTip(plot) {
    const { left } = plot.cursor;
    if (left === null || left === undefined || left < 0) return this.#hideTip();
    const { curves, x, y } = this.drawing;
    const at = plot.posToVal(left, "x");
    const format = y.format ?? short;
    const rows = curves
      .filter((curve) => curve.name)
      .map((curve) => ({ curve, value: between(curve.x, curve.y, at), low: curve.low && between(curve.x, curve.low, at), high: curve.low && between(curve.x, curve.high, at) }))
      .filter(({ value }) => value !== null);
    if (!this.drawing.stacked) rows.sort((a, b) => b.value - a.value);
    if (!rows.length) return this.#hideTip();
    this.tip.replaceChildren(
      h("div", { class: "tip-x" }, `${(x.format ?? short)(at)} ${x.unit ?? x.label}`),
      ...rows.slice(0, 14).map(({ curve, value, low, high }) => {
        const amount = this.drawing.stacked ? value - low : value;
        const ends = low && !this.drawing.stacked ? ` [${format(low)}, ${format(high)}]` : "";
        return h("div", {}, swatch(curve.colour), h("span", {}, curve.name), h("b", {}, format(amount)), h("small", {}, ends));
      }),
    );
    this.tip.hidden = false;
    const wide = this.tip.offsetWidth;
    const place = plot.over.offsetLeft + left;
    this.tip.style.left = `${place + 14 + wide > this.box.offsetWidth ? Math.max(0, place - 14 - wide) : place + 14}px`;
  }

  #hideTip() {
    this.tip.hidden = true;
  }

  #onKey(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!this.plot || (!step && event.key !== "Escape" && event.key !== "Home")) return;
    event.preventDefault();
    if (!step) {
      this.plot.setCursor({ left: -10, top: -10 });
      this.plot.setScale("x", { min: this.plot.data[0][0], max: this.plot.data[0].at(-1) });
      return;
    }
    const xs = this.plot.data[0];
    const { min, max } = this.plot.scales.x;
    const inside = xs.filter((x) => x >= min && x <= max);
    const at = this.plot.cursor.left >= 0 ? this.plot.posToVal(this.plot.cursor.left, "x") : -Infinity;
    const nearest = inside.reduce((best, x, k) => (Math.abs(x - at) < Math.abs(inside[best] - at) ? k : best), 0);
    const next = Math.min(inside.length - 1, Math.max(0, at === -Infinity ? 0 : nearest + step));
    this.plot.setCursor({ left: this.plot.valToPos(inside[next], "x"), top: 0 });
  }

  #width() {
    return Math.max(160, Math.floor(this.box.clientWidth));
  }

  #resize() {
    if (this.plot && this.plot.width !== this.#width()) this.plot.setSize({ width: this.#width(), height: this.height });
  }
}

function visible(curve, log) {
  if (!log) return curve;
  const kept = curve.x.map((x, k) => [x, k]).filter(([x]) => x > 0).map(([, k]) => k);
  const take = (values) => values && kept.map((k) => values[k]);
  return { ...curve, x: take(curve.x), y: take(curve.y), low: take(curve.low), high: take(curve.high) };
}

function clip(plot) {
  const { left, top, width, height } = plot.bbox;
  plot.ctx.beginPath();
  plot.ctx.rect(left, top, width, height);
  plot.ctx.clip();
}

/** From the lowest to the highest point of curves and bands, with some room. */
function extent(curves) {
  const values = curves.flatMap((curve) => [...curve.y, ...(curve.low ?? []), ...(curve.high ?? [])]);
  const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
}

/** 1, 2 and 5 times the powers of ten inside the axis. */
function decades(_, __, low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const digit of [1, 2, 5]) {
      const value = digit * 10 ** power;
      if (value >= low && value <= high) found.push(value);
    }
  }
  return found;
}

/** y at x, linear between points; null outside of them. */
export function between(xs, ys, x) {
  if (x < xs[0] || x > xs.at(-1)) return null;
  let k = xs.findIndex((value) => value >= x);
  if (k <= 0) return ys[0];
  const share = (x - xs[k - 1]) / (xs[k] - xs[k - 1]);
  return ys[k - 1] + share * (ys[k] - ys[k - 1]);
}

/** A PNG of charts, one below the other, with a heading, the key of their curves and a note. */
export function toPng(charts, heading, note) {
  const scale = devicePixelRatio;
  const line = 20 * scale;
  const canvases = charts.map(({ plot }) => plot.ctx.canvas);
  const names = new Map(charts.flatMap(({ drawing }) => drawing.curves).filter(({ name }) => name).map(({ name, colour }) => [name, colour]));
  const sentences = note.replace(/\.\s+/g, ".\n").split("\n");
  const target = document.createElement("canvas");
  target.width = Math.max(640 * scale, ...canvases.map(({ width }) => width));
  target.height = canvases.reduce((sum, { height }) => sum + height + line, (names.size + sentences.length + 2) * line);
  const ctx = target.getContext("2d");
  ctx.fillStyle = variable("--card");
  ctx.fillRect(0, 0, target.width, target.height);
  ctx.font = `${13 * scale}px system-ui, sans-serif`;
  let top = 0;
  const write = (text, colour = variable("--ink")) => {
    top += line;
    ctx.fillStyle = colour;
    ctx.fillText(text, line / 2, top, target.width - line); // squeezed when it is too long
  };
  write(heading);
  names.forEach((colour, name) => write(`■ ${name}`, colour));
  canvases.forEach((canvas, k) => {
    write(charts.length > 1 ? charts[k].heading : "");
    ctx.drawImage(canvas, 0, top);
    top += canvas.height;
  });
  sentences.forEach((sentence) => write(sentence, variable("--soft")));
  return new Promise((resolve) => target.toBlob(resolve, "image/png"));
}
