/** Channels, and who subscribes to them. */

/**
 * @typedef {object} Event
 * @property {string} channel
 * @property {string} tail the encoded event frame from `channel` on
 * @property {number} bytes of `tail`
 */

/**
 * @typedef {object} Subscriber
 * @property {string} [channel]
 * @property {string} [pattern]
 * @property {object} session
 * @property {(event: Event) => void} deliver
 */

/** Encodes an event once for all its subscribers. @param {string} channel @param {unknown} data @param {unknown} [enc] @returns {Event} */
export function encodeEvent(channel, data, enc) {
  const tail = JSON.stringify({ channel, enc, data }).slice(1);
  return { channel, tail, bytes: Buffer.byteLength(tail) };
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

  /**
   * Gives an event its place in its channel: everybody has it queued when this returns.
   * @param {Event} event
   * @param {object} [except] the session that does not want its own event
   */
  publish(event, except) {
    for (const subscriber of this.#channels.get(event.channel) ?? []) {
      if (subscriber.session !== except) subscriber.deliver(event);
    }
    if (this.#patterns.size === 0) return;
    const segments = event.channel.split('/');
    for (const [subscriber, pattern] of this.#patterns) {
      if (subscriber.session !== except && matches(pattern, segments)) subscriber.deliver(event);
    }
  }
}
