// Numbers and times as people read them; the same as app/web/formats.py.

import { words } from "./words.js";

export function percent(value) {
  return value == null ? "–" : fill(words.percent, { n: (value * 100).toFixed(2) });
}

export function number(value) {
  if (value == null) return "–";
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size >= 10_000 && size < 1e6) return Math.round(value).toLocaleString("en");
  if (value === 0 || (size >= 1e-4 && size < 1e6)) return String(Number(value.toPrecision(4)));
  return value.toExponential(2);
}

export function count(value) {
  return value.toLocaleString("en");
}

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return fill(words.seconds, { n: whole });
  if (whole < 3600) return fill(words.minutes, { min: Math.floor(whole / 60), s: whole % 60 });
  if (whole < 48 * 3600) return fill(words.hours, { h: Math.floor(whole / 3600), min: Math.floor((whole % 3600) / 60) });
  return fill(words.days, { d: Math.floor(whole / 86_400), h: Math.floor((whole % 86_400) / 3600) });
}

export function ago(iso) {
  const passed = Math.max(0, (Date.now() - Date.parse(iso)) / 1000);
  if (passed < 10) return words.just_now;
  if (passed < 60) return fill(words.seconds_ago, { n: Math.floor(passed) });
  if (passed < 3600) return fill(words.minutes_ago, { n: Math.floor(passed / 60) });
  if (passed < 86_400) return fill(words.hours_ago, { n: Math.floor(passed / 3600) });
  if (passed < 30 * 86_400) return fill(words.days_ago, { n: Math.floor(passed / 86_400) });
  return iso.slice(0, 10);
}

// "{n} selected" with {n: 3} -> "3 selected"
export function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}
