/** The logs of channels, and the cursors that name places in them. */

import { createHash, randomBytes } from 'node:crypto';
import { LOG_BYTES, LOG_EVENTS, MAX_LOGS, hasLog } from './settings.js';

/** @typedef {import('./broker.js').Event} Event */

/**
 * A place in a log: just after its event number `n`.
 * @typedef {{log: Log, n: number}} Place
 */

/** @typedef {'epoch' | 'expired' | 'unknown' | 'ahead'} Reason why a cursor leads nowhere */

/** The bytes of the longest member `cursor` with its comma. */
export const CURSOR_BYTES = 48;
/** The bytes of everything on a page but its events. */
const PAGE_BYTES = 2 * CURSOR_BYTES + 32;

/** @param {string} channel @param {string} epoch @param {string} n */
function sign(channel, epoch, n) {
  const hash = createHash('sha256').update(`${epoch}.${n}.${channel}`).digest('base64url');
  return `${epoch}.${n}.${hash.slice(0, 11)}`;
}

/** The newest events of one channel in one epoch, numbered from 1 on. */
export class Log {
  #epoch = randomBytes(6).toString('base64url');
  #channel;
  /** @type {Event[]} */
  #events = [];
  #bytes = 0;
  /** Number of the newest event. */
  last = 0;

  /** @param {string} channel */
  constructor(channel) {
    this.#channel = channel;
  }

  /** The place before the oldest event that is left. */
  get beginning() {
    return this.last - this.#events.length;
  }

  /** @param {Event} event */
  append(event) {
    event.place = { log: this, n: ++this.last };
    event.cursor = this.cursor(this.last);
    this.#events.push(event);
    this.#bytes += event.bytes;
    while (this.#events.length > LOG_EVENTS || this.#bytes > LOG_BYTES) this.#bytes -= this.#events.shift().bytes;
  }

  /** Forgets the events; places and epoch stay. */
  trim() {
    this.#events = [];
    this.#bytes = 0;
  }

  /** The event behind a place between the beginning and the end. @param {number} n */
  after(n) {
    return this.#events[n - this.beginning];
  }

  /** @param {number} n */
  cursor(n) {
    return sign(this.#channel, this.#epoch, n.toString(36));
  }

  /** The place that a cursor names, or why there is none. @param {string} cursor @returns {number | Reason} */
  find(cursor) {
    const [epoch, digits = ''] = cursor.split('.');
    if (cursor !== sign(this.#channel, epoch, digits)) return 'unknown';
    if (epoch !== this.#epoch) return 'epoch';
    const n = parseInt(digits, 36);
    if (n > this.last) return 'ahead';
    return n < this.beginning ? 'expired' : n;
  }

  /**
   * One page as JSON.
   * @param {number} n the place at which it begins or, backward, ends
   * @param {{backward: boolean, limit: number, bytes: number}} options how much it may hold
   */
  page(n, { backward, limit, bytes }) {
    const events = [];
    const [step, end] = backward ? [-1, this.beginning] : [1, this.last];
    let room = bytes - PAGE_BYTES;
    for (; n !== end && events.length < limit; n += step) {
      const { cursor, body } = this.after(backward ? n - 1 : n);
      let item = `{"cursor":"${cursor}",${body}`;
      if (Buffer.byteLength(item) > bytes - PAGE_BYTES) item = JSON.stringify({ cursor, too_large: true });
      room -= Buffer.byteLength(item) + 1;
      if (room < -1) break; // the last comma is none
      events.push(item);
    }
    const start = backward ? n : n - events.length;
    const rest = {
      start: events.length > 0 ? this.cursor(start) : undefined,
      more: n !== end,
      trimmed: backward && n === end && end > 0 ? true : undefined,
    };
    return `{"events":[${(backward ? events.reverse() : events).join()}],${JSON.stringify(rest).slice(1)}`;
  }
}

/** Every log; the one that was not used for the longest time goes when there are too many. */
export class Logs {
  /** @type {Map<string, Log>} the least recently used first */
  #logs = new Map();

  /** The log of a channel, if it has one. @param {string} channel */
  of(channel) {
    if (!hasLog(channel)) return null;
    const log = this.#logs.get(channel) ?? new Log(channel);
    this.#logs.delete(channel);
    this.#logs.set(channel, log);
    if (this.#logs.size > MAX_LOGS) this.wipe(this.#logs.keys().next().value);
    return log;
  }

  /** @param {string} channel */
  trim(channel) {
    this.of(channel)?.trim();
  }

  /** The next one to ask gets a new log in a new epoch. @param {string} channel */
  wipe(channel) {
    this.#logs.get(channel)?.trim(); // who still reads it holds no events
    this.#logs.delete(channel);
  }

  /**
   * What follows a place for one session: an event, the cursor of a gap, or null at the end.
   * @param {string} channel @param {Place} place @param {number} session
   * @returns {{event?: Event, gap?: string, place: Place} | null} with the place behind it
   */
  next(channel, place, session) {
    const log = this.of(channel);
    if (place.log !== log || place.n < log.beginning) {
      return { gap: log.cursor(log.beginning), place: { log, n: log.beginning } };
    }
    for (let { n } = place; n < log.last; n++) {
      const event = log.after(n);
      if (event.except !== session) return { event, place: event.place };
    }
    return null;
  }
}
