/** Channels, and who subscribes to them. */

import { Dedupe } from './dedupe.js';
import { Logs } from './log.js';

/**
 * @typedef {object} Event
 * @property {string} channel
 * @property {string} head the encoded member `channel`
 * @property {string} body the encoded members `enc` and `data`
 * @property {number} bytes of both
 * @property {number} [except] the session that does not want its own event
 * @property {import('./log.js').Place} [place] just after it, when the channel has a log
 * @property {string} [cursor] of this place
 */

/**
 * @typedef {object} Subscriber
 * @property {string} [channel]
 * @property {string} [pattern]
 * @property {number} session
 * @property {(event: Event) => void} deliver
 */

/** Encodes an event once for all its subscribers. @param {string} channel @param {unknown} data @param {unknown} [enc] @returns {Event} */
export function encodeEvent(channel, data, enc) {
  const head = `"channel":${JSON.stringify(channel)},`;
  const body = JSON.stringify({ enc, data }).slice(1);
  return { channel, head, body, bytes: Buffer.byteLength(head) + Buffer.byteLength(body) };
}

/** @param {string[]} pattern @param {string[]} channel both split into segments */
export function matches(pattern, channel) {
  const deep = pattern.at(-1) === '**';
  const fixed = deep ? pattern.length - 1 : pattern.length;
  if (deep ? channel.length <= fixed : channel.length !== fixed) return false;
  return channel.every((segment, i) =>
    segment !== '' && (i >= fixed || pattern[i] === '*' || pattern[i] === segment));
}

export class Broker {
  /** @type {Map<string, Set<Subscriber>>} */
  #channels = new Map();
  /** @type {Map<Subscriber, string[]>} */
  #patterns = new Map();
  logs = new Logs();
  dedupe = new Dedupe();

  /** @param {Subscriber} subscriber */
  add(subscriber) {
    const { channel, pattern } = subscriber;
    if (pattern !== undefined) {
      this.#patterns.set(subscriber, pattern.split('/'));
      return;
    }
    if (!this.#channels.has(channel)) this.#channels.set(channel, new Set());
    this.#channels.get(channel).add(subscriber);
  }

  /** @param {Subscriber} subscriber */
  remove(subscriber) {
    this.#patterns.delete(subscriber);
    const subscribers = this.#channels.get(subscriber.channel);
    if (subscribers?.delete(subscriber) && subscribers.size === 0) this.#channels.delete(subscriber.channel);
  }

  /** Gives an event its place in its channel: everybody has it queued when this returns. @param {Event} event */
  publish(event) {
    this.logs.of(event.channel)?.append(event);
    for (const subscriber of this.#channels.get(event.channel) ?? []) {
      if (subscriber.session !== event.except) subscriber.deliver(event);
    }
    if (this.#patterns.size === 0) return;
    const segments = event.channel.split('/');
    for (const [subscriber, pattern] of this.#patterns) {
      if (subscriber.session !== event.except && matches(pattern, segments)) subscriber.deliver(event);
    }
  }
}
