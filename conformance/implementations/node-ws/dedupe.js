/** The keys of publishes that went well, each kept for `dedupe_ms`. */

import { MAX_DEDUPE_KEYS } from './settings.js';
import { now } from './timers.js';

/** @typedef {{until: number, cursor?: string}} First what a duplicate is told about the first publish */

export class Dedupe {
  /** @type {Map<string, Map<string, First>>} by principal, then by channel and key, the oldest first */
  #principals = new Map();

  /** The keys of a principal without those that are too old. @param {string} principal */
  #keys(principal) {
    if (!this.#principals.has(principal)) this.#principals.set(principal, new Map());
    const keys = this.#principals.get(principal);
    for (const [key, { until }] of keys) {
      if (until >= now()) break;
      keys.delete(key);
    }
    return keys;
  }

  /** @param {string} principal @param {string} channel @param {string} key @returns {First | undefined} */
  find(principal, channel, key) {
    const first = this.#keys(principal).get(JSON.stringify([channel, key]));
    return first && first.until >= now() ? first : undefined;
  }

  /** Milliseconds until one more key can be kept. @param {string} principal */
  wait(principal) {
    const keys = this.#keys(principal);
    if (keys.size < MAX_DEDUPE_KEYS) return 0;
    const { until } = keys.values().next().value;
    return Math.max(1, Math.ceil(until - now()));
  }

  /** @param {string} principal @param {string} channel @param {string} key @param {number} ms @param {string} [cursor] */
  remember(principal, channel, key, ms, cursor) {
    const keys = this.#keys(principal);
    const name = JSON.stringify([channel, key]);
    keys.delete(name); // a younger one stands at the end
    keys.set(name, { until: now() + ms, cursor });
  }
}
