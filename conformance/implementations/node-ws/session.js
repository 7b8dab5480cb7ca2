/** One session: exchanges, identity, and what becomes of them without a connection. */

import { encodeEvent } from './broker.js';
import { CURSOR_BYTES } from './log.js';
import { METHODS } from './methods.js';
import { Lane, Outbox, SEQ_BYTES, eventHead } from './outbox.js';
import { Failure, isUnsupported, isWellFormed } from './protocol.js';
import { authenticate, hasLog, mayUse } from './settings.js';
import { Bucket } from './timers.js';

/** @typedef {import('./protocol.js').Frame} Frame */
/** @typedef {import('./settings.js').Identity} Identity */

/** The longest that an event can be without its channel and data: its id has 16 digits. */
const EVENT_HEAD = eventHead(Number.MAX_SAFE_INTEGER).length + CURSOR_BYTES + SEQ_BYTES;

/**
 * An exchange that runs: a request or a subscription.
 * @typedef {object} Exchange
 * @property {number} id
 * @property {Lane} lane
 * @property {() => void} left frees its slot
 * @property {import('./broker.js').Subscriber} [subscriber]
 * @property {AbortController} [controller]
 * @property {NodeJS.Timeout} [timer]
 */

let sessionsSoFar = 0;

export class Session {
  #number = ++sessionsSoFar;
  #sessions;
  #broker;
  #log;
  /** @type {Identity} */
  #identity;
  /** @type {import('./connection.js').Connection | null} */
  #connection = null;
  /** @type {Map<number, Exchange>} */
  #exchanges = new Map();

  lastId = 0;

  // With profile `resume`, for `Sessions`.
  /** @type {string | undefined} hash of its name */ key;
  attempt = 0;
  /** @type {number | undefined} */ suspendedAt;
  /** @type {NodeJS.Timeout | undefined} */ timer;

  // What is under way: slots, refusals and auths in the queue.
  #inflight = 0;
  #subscriptions = 0;
  #refusals = 0;
  #refusedBytes = 0;
  #auths = 0;

  /**
   * @param {{
   *   identity: Identity, profiles: string[], lowered?: {max_frame?: number, window?: number},
   *   sessions: import('./sessions.js').Sessions, broker: import('./broker.js').Broker, log: (line: string) => void,
   * }} options
   */
  constructor({ identity, profiles, lowered = {}, sessions, broker, log }) {
    this.#identity = identity;
    this.#sessions = sessions;
    this.#broker = broker;
    this.#log = log;
    this.profiles = new Set(['core', ...profiles]);
    const { max_frame, window } = identity.limits;
    const numbered = this.profiles.has('ack');
    this.limits = { ...identity.limits, window: numbered ? Math.min(window, lowered.window ?? Infinity) : window };
    this.bucket = new Bucket(this.limits.rate);
    this.outbox = new Outbox(this.limits, { frameLimit: Math.min(max_frame, lowered.max_frame ?? Infinity), numbered });
  }

  get principal() {
    return this.#identity.principal;
  }

  get connection() {
    return this.#connection;
  }

  // --- from connection to connection ----------------------------------------

  /** @param {import('./connection.js').Connection} connection that has sent `welcome` */
  attach(connection) {
    this.#connection = connection;
    this.outbox.attach(connection);
  }

  /** Lets go of a connection that may still live. */
  detach() {
    const connection = this.#connection;
    this.#connection = null;
    this.outbox.detach();
    connection?.supersede();
  }

  /** The connection has ended. @param {boolean} isKept whether it may have ended by accident */
  lose(isKept) {
    this.#connection = null;
    this.outbox.detach();
    if (isKept && this.#sessions.knows(this)) this.#sessions.suspend(this);
    else this.#sessions.end(this, 'ended');
  }

  /** Lets no later resume find this session. */
  forget() {
    this.#sessions.forget(this);
  }

  /** Whether a resume agrees with this session. @param {string[]} profiles @param {number} seq */
  accepts(profiles, seq) {
    const { acked, sent } = this.outbox;
    const areSame = profiles.length + 1 === this.profiles.size && profiles.every((profile) => this.profiles.has(profile));
    return areSame && acked <= seq && seq <= sent;
  }

  /** @param {Identity} identity @param {number} seq */
  resume(identity, seq) {
    this.#grant(identity);
    this.outbox.ack(seq);
  }

  /** Cancels what runs. */
  end() {
    for (const { subscriber, controller, timer } of this.#exchanges.values()) {
      clearTimeout(timer);
      if (subscriber) this.#broker.remove(subscriber);
      controller?.abort();
    }
    this.#exchanges.clear();
  }

  // --- exchanges ------------------------------------------------------------

  /** Whether so many refusals are queued that nothing more should be read. */
  get isClogged() {
    return this.#refusals >= this.limits.max_inflight && this.outbox.windowOpen;
  }

  /** A frame that starts an exchange: step 8. @param {Frame} frame with a fresh `id` */
  start(frame) {
    const id = /** @type {number} */ (frame.id);
    this.lastId = id;
    const fault = this.#fault(frame);
    if (fault) return this.#refuse(id, fault);
    switch (frame.type) {
      case 'auth': return this.#auth(frame);
      case 'request': return this.#request(frame);
      case 'subscribe': return this.#subscribe(frame);
      case 'publish': return this.#publish(frame);
      case 'history': return this.#history(frame);
    }
  }

  /** The first fault of step 8, in its order. @param {Frame} frame @returns {Failure | undefined} */
  #fault(frame) {
    const isAuth = frame.type === 'auth';
    const paid = isAuth || this.bucket.take();
    if (isAuth && this.#auths > 0) return new Failure('conflict', 'another auth is unfinished');
    if (isUnsupported(frame, this.profiles)) return new Failure('unsupported', 'not negotiated');
    if (!isWellFormed(frame)) return new Failure('bad_request', 'the frame does not have the shape of its type');
    if (!paid) return new Failure('rate_limited', '', { retry_ms: this.bucket.wait() });
    if (isAuth) return;
    if (this.#connection.isDraining) return new Failure('draining');
    const full = frame.type === 'subscribe'
      ? this.#subscriptions >= this.limits.max_subscriptions
      : this.#inflight >= this.limits.max_inflight;
    if (full) return new Failure('limit_exceeded', 'no slot is free');
    if (frame.type === 'request') {
      const method = METHODS.get(/** @type {string} */ (frame.method));
      if (method === null) return new Failure('forbidden');
      if (method === undefined) return new Failure('not_found');
    } else if (frame.channel !== undefined && !mayUse(this.#identity, /** @type {string} */ (frame.channel))) {
      return new Failure('forbidden');
    }
  }

  /** @param {number} id @param {Failure} failure */
  #refuse(id, failure) {
    const text = this.#encodeError(id, failure);
    this.#refusals++;
    this.#refusedBytes += text.length;
    const left = () => {
      this.#refusals--;
      this.#refusedBytes -= text.length;
    };
    this.outbox.push({ text, left });
    if (!this.outbox.windowOpen && this.#refusedBytes > this.limits.window_bytes) this.#connection.close(4301);
  }

  /** @param {number} id @param {Failure} failure */
  #encodeError(id, { code, message, retryMs: retry_ms, data }) {
    let text = JSON.stringify({ type: 'error', id, error: { code, message, retry_ms, data } });
    for (let over; (over = Buffer.byteLength(text) - this.outbox.frameLimit) > 0; data = undefined) {
      // First the data goes, then what is too much of the message; a character takes 6 bytes at most.
      if (data === undefined) message = message.slice(0, -Math.ceil(over / 6)).toWellFormed();
      text = JSON.stringify({ type: 'error', id, error: { code, message, retry_ms } });
    }
    return text;
  }

  /** @param {Frame} frame */
  #auth(frame) {
    this.#auths++;
    const left = () => this.#auths--;
    const id = /** @type {number} */ (frame.id);
    const identity = authenticate(frame);
    if (!identity || identity.principal !== this.principal) {
      const code = identity ? 'principal_mismatch' : 'unauthenticated';
      return this.outbox.push({ text: this.#encodeError(id, new Failure(code)), left });
    }
    this.#connection.watchExpiry(identity);
    const data = { expires_in_ms: identity.expiresInMs };
    this.outbox.push({ text: JSON.stringify({ type: 'result', id, data }), left });
    this.#grant(identity);
  }

  /** Goes by a new identity, and ends what it may not have. @param {Identity} identity */
  #grant(identity) {
    this.#identity = identity;
    const maySee = (channel) => mayUse(identity, channel);
    for (const exchange of this.#exchanges.values()) {
      if (!exchange.subscriber) continue;
      const { channel } = exchange.subscriber;
      if (channel === undefined) this.outbox.withdraw(exchange.lane, maySee);
      else if (!maySee(channel)) this.#fail(exchange, new Failure('forbidden'));
    }
  }

  /** @param {Frame} frame */
  #publish(frame) {
    this.#inflight++;
    const left = () => this.#inflight--;
    const { id, dedupe } = /** @type {{id: number, dedupe?: string}} */ (frame);
    const channel = /** @type {string} */ (frame.channel);
    const { principal, outbox } = this;
    const keys = this.#broker.dedupe;
    const first = dedupe === undefined ? undefined : keys.find(principal, channel, dedupe);
    const succeed = (data) => outbox.push({ text: JSON.stringify({ type: 'result', id, data }), left });
    const fail = (failure) => outbox.push({ text: this.#encodeError(id, failure), left });
    if (first) return succeed({ cursor: first.cursor, duplicate: true });

    const event = encodeEvent(channel, frame.data, frame.enc);
    if (EVENT_HEAD + event.bytes > this.limits.max_frame) return fail(new Failure('too_large'));
    const retry_ms = dedupe === undefined ? 0 : keys.wait(principal);
    if (retry_ms > 0) return fail(new Failure('unavailable', 'too many keys', { retry_ms }));
    if (frame.echo === false) event.except = this.#number;
    this.#broker.publish(event);
    if (dedupe !== undefined) keys.remember(principal, channel, dedupe, this.limits.dedupe_ms, event.cursor);
    succeed(this.profiles.has('history') && event.cursor ? { cursor: event.cursor } : undefined);
  }

  /** @param {Frame} frame */
  #subscribe(frame) {
    this.#subscriptions++;
    const left = () => this.#subscriptions--;
    const { id, channel, pattern, since, last = 0, recover } =
      /** @type {{id: number, channel?: string, pattern?: string, since?: string, last?: number, recover?: string}} */ (frame);
    const { logs } = this.#broker;
    const log = this.profiles.has('history') && channel !== undefined ? logs.of(channel) : null;
    const found = log && since !== undefined ? log.find(since) : 'unknown';
    const recovered = since === undefined ? undefined : typeof found === 'number';
    if (recovered === false && recover) {
      return this.outbox.push({ text: this.#encodeError(id, new Failure('unrecoverable')), left });
    }
    const n = log && (recovered ? /** @type {number} */ (found) : Math.max(log.beginning, log.last - last));
    const reason = recovered === false ? found : undefined;
    const cursor = log?.cursor(n);

    const lane = new Lane(id, log ? (place) => logs.next(channel, place, this.#number) : undefined);
    const subscriber = {
      channel,
      pattern,
      session: this.#number,
      deliver: (event) => {
        if (mayUse(this.#identity, event.channel)) this.outbox.pushEvent(lane, event);
      },
    };
    this.#exchanges.set(id, { id, lane, subscriber, left });
    this.outbox.push({ text: JSON.stringify({ type: 'open', id, cursor, recovered, reason }) });
    this.#broker.add(subscriber);
    if (log && n < log.last) this.outbox.replay(lane, { log, n });
  }

  /** @param {Frame} frame */
  #history(frame) {
    this.#inflight++;
    const left = () => this.#inflight--;
    const { id, channel, before, after, limit = Infinity } =
      /** @type {{id: number, channel: string, before?: string, after?: string, limit?: number}} */ (frame);
    const log = this.#broker.logs.of(channel);
    const cursor = before ?? after;
    const n = cursor === undefined ? log?.last : (log?.find(cursor) ?? 'unknown');
    if (typeof n === 'string') {
      const code = n === 'expired' ? 'unrecoverable' : 'bad_cursor';
      return this.outbox.push({ text: this.#encodeError(id, new Failure(code)), left });
    }
    const head = `{"type":"result","id":${id},"data":`;
    const page = log
      ? log.page(n, {
        backward: after === undefined,
        limit: Math.min(limit, this.limits.history_limit),
        bytes: this.outbox.frameLimit - head.length - 1,
      })
      : '{"events":[],"more":false,"trimmed":true}';
    this.outbox.push({ text: `${head}${page}}`, left });
  }

  /** @param {Frame} frame */
  #request(frame) {
    this.#inflight++;
    const id = /** @type {number} */ (frame.id);
    const controller = new AbortController();
    /** @type {Exchange} */
    const exchange = { id, lane: new Lane(id), left: () => this.#inflight--, controller };
    this.#exchanges.set(id, exchange);
    if (frame.timeout_ms !== undefined) {
      exchange.timer = setTimeout(() => this.#stop(exchange, new Failure('deadline_exceeded')), /** @type {number} */ (frame.timeout_ms));
    }
    const call = {
      frame,
      signal: controller.signal,
      session: this,
      broker: this.#broker,
      maxFrame: this.limits.max_frame,
      reply: (body) => this.#succeed(exchange, body),
      fail: (failure) => this.#fail(exchange, failure),
      chunk: (data) => this.#chunk(exchange, data),
      isOver: () => !this.#exchanges.has(id),
    };
    METHODS.get(/** @type {string} */ (frame.method))(call).then(call.reply, (error) => {
      if (!(error instanceof Failure) && !controller.signal.aborted) this.#log(`request ${id}: ${error.stack}`);
      call.fail(error instanceof Failure ? error : new Failure('internal'));
    });
  }

  /** Sends one chunk; resolves when it has left the queue. @param {Exchange} exchange @param {unknown} data @returns {Promise<void>} */
  #chunk(exchange, data) {
    return new Promise((resolve) => {
      if (!this.#exchanges.has(exchange.id)) return resolve();
      const text = JSON.stringify({ type: 'chunk', id: exchange.id, data });
      if (Buffer.byteLength(text) <= this.outbox.frameLimit) {
        return this.outbox.push({ text, lane: exchange.lane, left: resolve });
      }
      this.#fail(exchange, new Failure('too_large'));
      resolve();
    });
  }

  /** @param {number} id */
  cancel(id) {
    const exchange = this.#exchanges.get(id);
    if (exchange?.subscriber) {
      this.outbox.discard(exchange.lane);
      this.#succeed(exchange, {});
    } else if (exchange) {
      this.#stop(exchange, new Failure('cancelled'));
    }
  }

  /** Ends a request and its work. @param {Exchange} exchange @param {Failure} failure */
  #stop(exchange, failure) {
    this.#fail(exchange, failure);
    exchange.controller.abort();
  }

  /** @param {Exchange} exchange @param {{enc?: unknown, data?: unknown}} body */
  #succeed(exchange, { enc, data } = {}) {
    const text = JSON.stringify({ type: 'result', id: exchange.id, enc, data });
    if (Buffer.byteLength(text) > this.outbox.frameLimit) this.#fail(exchange, new Failure('too_large'));
    else this.#finish(exchange, text);
  }

  /** @param {Exchange} exchange @param {Failure} failure */
  #fail(exchange, failure) {
    if (!this.#exchanges.has(exchange.id)) return;
    this.outbox.discard(exchange.lane);
    this.#finish(exchange, this.#encodeError(exchange.id, failure));
  }

  /** Queues the terminal of an exchange, unless it has one. @param {Exchange} exchange @param {string} text */
  #finish(exchange, text) {
    if (!this.#exchanges.delete(exchange.id)) return;
    clearTimeout(exchange.timer);
    if (exchange.subscriber) this.#broker.remove(exchange.subscriber);
    this.outbox.push({ text, left: exchange.left });
  }
}
