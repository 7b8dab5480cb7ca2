/** One connection and its session: reading, exchanges, identity, drain, end. */

import { randomInt, randomUUID } from 'node:crypto';
import { WebSocket } from 'ws';
import { Broker, encodeEvent } from './broker.js';
import { METHODS } from './methods.js';
import { Lane, Outbox, eventHead } from './outbox.js';
import { CLOSE_NAMES, Failure, TYPES, has, isId, isType, isUnsupported, isWellFormed, negotiate, parse } from './protocol.js';
import { CLOSE_MS, HEARTBEAT, HELLO_TIMEOUT_MS, LIMITS, authenticate, mayUse } from './settings.js';
import { Bucket, Heartbeat, now } from './timers.js';

/** @typedef {import('./protocol.js').Frame} Frame */
/** @typedef {import('./settings.js').Identity} Identity */

/** Bytes that may wait in the socket before frames wait in the queue instead. */
const SOCKET_BYTES = 65536;
/** Frames without `id`, WebSocket pongs among them, that may wait before reading stops. */
const MAX_CONTROL = 32;
/** The head of the longest event: its id has 16 digits. */
const EVENT_HEAD = eventHead(Number.MAX_SAFE_INTEGER).length;

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

export class Session {
  /** @type {'new' | 'ready' | 'closed'} */
  #state = 'new';
  #conn = randomUUID();
  #ws;
  #broker;
  #log;
  /** @type {Identity | null} */
  #identity;
  #profiles = new Set(['core']);
  #limits = LIMITS;
  #frameLimit = LIMITS.max_frame;
  #lastId = 0;
  /** @type {Map<number, Exchange>} */
  #exchanges = new Map();

  /** Messages that arrived while reading was stopped. @type {[Buffer, boolean][]} */
  #inbox = [];
  #reading = false;

  /** @type {Outbox} */ #outbox;
  /** @type {Bucket} */ #bucket;
  /** @type {Heartbeat | undefined} */ #heartbeat;
  #helloTimer;
  /** @type {NodeJS.Timeout | undefined} */ #expiryTimer;
  /** @type {NodeJS.Timeout | undefined} */ #drainTimer;
  #deadline = Infinity;

  // What is under way: slots, refusals and auths in the queue, frames without `id` not yet written.
  #inflight = 0;
  #subscriptions = 0;
  #refusals = 0;
  #auths = 0;
  #control = 0;
  #pingWaits = false;

  /**
   * @param {WebSocket} ws
   * @param {import('node:net').Socket} socket below it
   * @param {{broker: Broker, ambient: Identity | null, log: (line: string) => void}} context
   */
  constructor(ws, socket, { broker, ambient, log }) {
    this.#ws = ws;
    this.#broker = broker;
    this.#identity = ambient;
    this.#log = (line) => log(`${this.#conn} ${line}`);
    this.#helloTimer = setTimeout(() => this.close(4303), HELLO_TIMEOUT_MS);
    ws.on('message', (data, isBinary) => this.#receive(/** @type {Buffer} */ (data), isBinary));
    ws.on('ping', (payload) => {
      if (this.#state === 'closed') return;
      this.#control++;
      ws.pong(payload, false, this.#controlWritten);
      this.#read();
    });
    ws.on('error', (error) => {
      this.#log(`websocket: ${error.message}`);
      this.#end();
    });
    ws.on('close', (code) => {
      this.#log(`ended ${code}`);
      this.#end();
    });
    // The session ends with the client's close frame or FIN; `ws` says so only when the socket is gone.
    socket.on('data', () => {
      if (ws.readyState === WebSocket.CLOSING) this.#end();
    });
    socket.on('end', () => {
      this.#end();
      setTimeout(() => ws.terminate(), CLOSE_MS).unref();
    });
    this.#log('connected');
  }

  // --- writing --------------------------------------------------------------

  #written = () => {
    if (this.#state === 'closed') return;
    this.#outbox?.flush();
    this.#read();
  };

  #controlWritten = () => {
    this.#control--;
    this.#written();
  };

  /** @param {string} text */
  #send(text, written = this.#written) {
    this.#heartbeat?.sent();
    this.#ws.send(text, written);
  }

  /** Sends a frame without `id`, past the queue. @param {object} frame */
  #sendControl(frame, written = this.#controlWritten) {
    this.#control++;
    this.#send(JSON.stringify(frame), written);
  }

  /** @param {number} id @param {Failure} failure */
  #encodeError(id, { code, message, retryMs: retry_ms, data }) {
    let text = JSON.stringify({ type: 'error', id, error: { code, message, retry_ms, data } });
    for (let over; (over = Buffer.byteLength(text) - this.#frameLimit) > 0; data = undefined) {
      // First the data goes, then what is too much of the message; a character takes 6 bytes at most.
      if (data === undefined) message = message.slice(0, -Math.ceil(over / 6)).toWellFormed();
      text = JSON.stringify({ type: 'error', id, error: { code, message, retry_ms } });
    }
    return text;
  }

  // --- reading --------------------------------------------------------------

  /** @param {Buffer} data @param {boolean} isBinary */
  #receive(data, isBinary) {
    if (this.#state === 'closed') return;
    this.#inbox.push([data, isBinary]);
    this.#read();
  }

  /** Reads what has arrived, until too much waits to be written. */
  #read() {
    if (this.#reading) return;
    this.#reading = true;
    const blocked = () => this.#control >= MAX_CONTROL || this.#refusals >= this.#limits.max_inflight;
    while (this.#inbox.length > 0 && this.#state !== 'closed' && !blocked()) this.#examine(...this.#inbox.shift());
    this.#reading = false;
    if (this.#state === 'closed') return;
    if (blocked() !== this.#ws.isPaused) {
      if (blocked()) this.#ws.pause();
      else this.#ws.resume();
    }
  }

  /** The reading order, from step 2 on: `ws` has seen to the size and to UTF-8. @param {Buffer} data @param {boolean} isBinary */
  #examine(data, isBinary) {
    this.#heartbeat?.received();
    if (isBinary) return this.close(1003);
    const frame = parse(data.toString());
    if (!frame) return this.close(4001);
    if (!isType(frame.type)) return this.close(4005);
    const row = TYPES.get(frame.type);
    if (row?.from === 'server') return this.close(4002);
    if ((this.#state === 'new') !== (frame.type === 'hello')) return this.close(4002);
    if (frame.type === 'ack') return;
    if (row ? row.starts : has(frame, 'id')) return this.#start(frame);
    if (!row) return this.#charge();
    if (frame.type === 'cancel') {
      if (!isId(frame.of)) return this.close(4005);
      if (frame.of > this.#lastId) return this.close(4003);
    }
    if (!isWellFormed(frame)) return this.close(4005);
    if (frame.type === 'hello') return this.#hello(frame);
    if (frame.type === 'cancel') return this.#charge(() => this.#cancel(/** @type {number} */ (frame.of)));
    if (frame.type === 'ping') return this.#charge(() => this.#pong(frame));
  }

  /** A frame without `id` pays or ends the connection. */
  #charge(then = () => {}) {
    if (this.#bucket.take()) then();
    else this.close(4302);
  }

  /** @param {Frame} frame */
  #pong({ t }) {
    if (!this.#profiles.has('fence')) return this.#sendControl({ type: 'pong', t });
    this.#control++;
    this.#outbox.push({ text: JSON.stringify({ type: 'pong', t }), written: this.#controlWritten });
  }

  /** @param {Frame} frame a good `hello` */
  #hello(frame) {
    const auth = /** @type {{token: string, scheme?: string} | undefined} */ (frame.auth);
    if (has(frame, 'auth')) this.#identity = authenticate(auth);
    const identity = this.#identity;
    if (!identity) return this.close(4101);

    clearTimeout(this.#helloTimer);
    const profiles = negotiate(/** @type {string[]} */ (frame.profiles));
    for (const profile of profiles) this.#profiles.add(profile);
    this.#limits = identity.limits;
    const { queue, queue_bytes, ...limits } = identity.limits;
    const lowered = /** @type {{max_frame?: number} | undefined} */ (frame.limits);
    this.#frameLimit = Math.min(limits.max_frame, lowered?.max_frame ?? Infinity);
    this.#bucket = new Bucket(limits.rate);
    this.#outbox = new Outbox(
      {
        ready: () => this.#ws.readyState === WebSocket.OPEN && this.#ws.bufferedAmount < SOCKET_BYTES,
        send: (text, written) => this.#send(text, written),
      },
      identity.limits,
      this.#frameLimit,
    );
    this.#state = 'ready';
    this.#send(JSON.stringify({
      type: 'welcome',
      conn: this.#conn,
      profiles,
      limits: this.#profiles.has('pubsub') ? { ...limits, queue, queue_bytes } : limits,
      heartbeat: HEARTBEAT,
      auth: { principal: identity.principal, expires_in_ms: identity.expiresInMs },
      server: { name: 'holdfast-node-ws', version: '1.0.0' },
    }));
    this.#heartbeat = new Heartbeat(HEARTBEAT, { ping: () => this.#ping(), dead: () => this.close(4304) });
    this.#watchExpiry();
    if (this.#deadline < Infinity) this.#goaway();
  }

  /** At most one ping waits: a second would tell the client nothing more. */
  #ping() {
    if (this.#pingWaits) return;
    this.#pingWaits = true;
    this.#sendControl({ type: 'ping' }, () => {
      this.#pingWaits = false;
      this.#controlWritten();
    });
  }

  #watchExpiry() {
    clearTimeout(this.#expiryTimer);
    const { expiresInMs } = this.#identity;
    if (expiresInMs !== undefined) this.#expiryTimer = setTimeout(() => this.expire(), expiresInMs);
  }

  // --- exchanges ------------------------------------------------------------

  /** A frame that starts an exchange: steps 6 to 8. @param {Frame} frame */
  #start(frame) {
    const { id } = frame;
    if (!isId(id)) return this.close(4005);
    if (id <= this.#lastId) return this.close(4003);
    this.#lastId = id;
    const fault = this.#fault(frame);
    if (fault) return this.#refuse(id, fault);
    switch (frame.type) {
      case 'auth': return this.#auth(frame);
      case 'request': return this.#request(frame);
      case 'subscribe': return this.#subscribe(frame);
      case 'publish': return this.#publish(frame);
    }
  }

  /** The first fault of step 8, in its order. @param {Frame} frame @returns {Failure | undefined} */
  #fault(frame) {
    const isAuth = frame.type === 'auth';
    const paid = isAuth || this.#bucket.take();
    if (isAuth && this.#auths > 0) return new Failure('conflict', 'another auth is unfinished');
    if (isUnsupported(frame, this.#profiles)) return new Failure('unsupported', 'not negotiated');
    if (!isWellFormed(frame)) return new Failure('bad_request', 'the frame does not have the shape of its type');
    if (!paid) return new Failure('rate_limited', '', { retry_ms: this.#bucket.wait() });
    if (isAuth) return;
    if (this.#deadline < Infinity) return new Failure('draining');
    const full = frame.type === 'subscribe'
      ? this.#subscriptions >= this.#limits.max_subscriptions
      : this.#inflight >= this.#limits.max_inflight;
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
    this.#refusals++;
    this.#outbox.push({ text: this.#encodeError(id, failure), left: () => this.#refusals-- });
  }

  /** @param {Frame} frame */
  #auth(frame) {
    this.#auths++;
    const left = () => this.#auths--;
    const id = /** @type {number} */ (frame.id);
    const identity = authenticate(frame);
    if (!identity || identity.principal !== this.#identity.principal) {
      const code = identity ? 'principal_mismatch' : 'unauthenticated';
      return this.#outbox.push({ text: this.#encodeError(id, new Failure(code)), left });
    }
    this.#identity = identity;
    this.#watchExpiry();
    const data = { expires_in_ms: identity.expiresInMs };
    this.#outbox.push({ text: JSON.stringify({ type: 'result', id, data }), left });
    for (const exchange of this.#exchanges.values()) {
      const channel = exchange.subscriber?.channel;
      if (channel !== undefined && !mayUse(identity, channel)) this.#fail(exchange, new Failure('forbidden'));
    }
  }

  /** @param {Frame} frame */
  #publish(frame) {
    this.#inflight++;
    const left = () => this.#inflight--;
    const id = /** @type {number} */ (frame.id);
    const event = encodeEvent(/** @type {string} */ (frame.channel), frame.data, frame.enc);
    if (EVENT_HEAD + event.bytes > this.#limits.max_frame) {
      return this.#outbox.push({ text: this.#encodeError(id, new Failure('too_large')), left });
    }
    this.#broker.publish(event, frame.echo === false ? this : undefined);
    this.#outbox.push({ text: JSON.stringify({ type: 'result', id }), left });
  }

  /** @param {Frame} frame */
  #subscribe(frame) {
    this.#subscriptions++;
    const id = /** @type {number} */ (frame.id);
    const lane = new Lane(id);
    const subscriber = {
      channel: /** @type {string | undefined} */ (frame.channel),
      pattern: /** @type {string | undefined} */ (frame.pattern),
      session: this,
      deliver: (event) => {
        if (mayUse(this.#identity, event.channel)) this.#outbox.pushEvent(lane, event);
      },
    };
    this.#exchanges.set(id, { id, lane, subscriber, left: () => this.#subscriptions-- });
    this.#outbox.push({ text: JSON.stringify({ type: 'open', id }) });
    this.#broker.add(subscriber);
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
      maxFrame: this.#limits.max_frame,
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
      if (Buffer.byteLength(text) <= this.#frameLimit) {
        return this.#outbox.push({ text, lane: exchange.lane, left: resolve });
      }
      this.#fail(exchange, new Failure('too_large'));
      resolve();
    });
  }

  /** @param {number} id */
  #cancel(id) {
    const exchange = this.#exchanges.get(id);
    if (exchange?.subscriber) {
      this.#outbox.discard(exchange.lane);
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
    if (Buffer.byteLength(text) > this.#frameLimit) this.#fail(exchange, new Failure('too_large'));
    else this.#finish(exchange, text);
  }

  /** @param {Exchange} exchange @param {Failure} failure */
  #fail(exchange, failure) {
    if (!this.#exchanges.has(exchange.id)) return;
    this.#outbox.discard(exchange.lane);
    this.#finish(exchange, this.#encodeError(exchange.id, failure));
  }

  /** Queues the terminal of an exchange, unless it has one. @param {Exchange} exchange @param {string} text */
  #finish(exchange, text) {
    if (!this.#exchanges.delete(exchange.id)) return;
    clearTimeout(exchange.timer);
    if (exchange.subscriber) this.#broker.remove(exchange.subscriber);
    this.#outbox.push({ text, left: exchange.left });
  }

  // --- the end --------------------------------------------------------------

  /** Lets the identity expire now. */
  expire() {
    this.close(4100);
  }

  /** Announces the end of this connection and closes it at the deadline. @param {number} deadlineMs */
  drain(deadlineMs) {
    const deadline = now() + deadlineMs;
    if (this.#state === 'closed' || deadline >= this.#deadline) return;
    this.#deadline = deadline;
    clearTimeout(this.#drainTimer);
    this.#drainTimer = setTimeout(() => this.close(4200), deadlineMs);
    if (this.#state === 'ready') this.#goaway();
  }

  #goaway() {
    const deadline_ms = Math.max(0, Math.round(this.#deadline - now()));
    this.#sendControl({ type: 'goaway', after_ms: randomInt(deadline_ms + 1), deadline_ms });
  }

  /** Closes with a code, behind what is queued. @param {number} code */
  close(code) {
    if (this.#state === 'closed') return;
    this.#log(`closing ${code}`);
    this.#outbox?.flush(true);
    this.#end();
    this.#ws.close(code, CLOSE_NAMES.get(code) ?? '');
    this.#ws.resume();
  }

  /** Ends the TCP connection without a close frame. */
  abort() {
    this.#end();
    this.#ws.terminate();
  }

  #end() {
    this.#state = 'closed';
    this.#heartbeat?.stop();
    for (const timer of [this.#helloTimer, this.#expiryTimer, this.#drainTimer]) clearTimeout(timer);
    for (const { subscriber, controller, timer } of this.#exchanges.values()) {
      clearTimeout(timer);
      if (subscriber) this.#broker.remove(subscriber);
      controller?.abort();
    }
    this.#exchanges.clear();
    this.#inbox.length = 0;
  }
}
