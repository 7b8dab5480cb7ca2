/** One connection: reading, heartbeat, drain, end. */

import { randomInt, randomUUID } from 'node:crypto';
import { WebSocket } from 'ws';
import { CLOSE_NAMES, TYPES, has, isId, isType, isWellFormed, keepsSession, negotiate, parse, visibleLimits } from './protocol.js';
import { CLOSE_MS, HEARTBEAT, HELLO_TIMEOUT_MS, authenticate } from './settings.js';
import { Heartbeat, now } from './timers.js';

/** @typedef {import('./protocol.js').Frame} Frame */
/** @typedef {import('./settings.js').Identity} Identity */

/** Bytes that may wait in the socket before frames wait in the queue instead. */
const SOCKET_BYTES = 65536;
/** Frames without `id`, WebSocket pongs among them, that may wait before reading stops. */
const MAX_CONTROL = 32;
/** What `ws` calls the end without a close frame. */
const NO_CLOSE_FRAME = 1006;

export class Connection {
  /** @type {'new' | 'ready' | 'closed'} */
  #state = 'new';
  #conn = randomUUID();
  #ws;
  #sessions;
  #log;
  #ambient;
  /** @type {import('./session.js').Session | null} */
  #session = null;

  /** Messages that arrived while reading was stopped. @type {[Buffer, boolean][]} */
  #inbox = [];
  #reading = false;

  /** @type {Heartbeat | undefined} */ #heartbeat;
  #helloTimer;
  /** @type {NodeJS.Timeout | undefined} */ #expiryTimer;
  /** @type {NodeJS.Timeout | undefined} */ #drainTimer;
  #deadline = Infinity;

  /** Frames without `id` that are not yet written. */
  #control = 0;
  #pingWaits = false;

  /**
   * @param {WebSocket} ws
   * @param {import('node:net').Socket} socket below it
   * @param {{sessions: import('./sessions.js').Sessions, ambient: Identity | null, log: (line: string) => void}} context
   */
  constructor(ws, socket, { sessions, ambient, log }) {
    this.#ws = ws;
    this.#sessions = sessions;
    this.#ambient = ambient;
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
      this.#end(1002);
    });
    ws.on('close', (code) => {
      this.#log(`ended ${code}`);
      this.#end(code);
    });
    // The connection ends with the client's close frame or FIN; `ws` says so, and with which code, only when the socket is gone.
    socket.on('data', () => {
      if (ws.readyState === WebSocket.CLOSING) this.#end(ws._closeCode);
    });
    socket.on('end', () => {
      this.#end(NO_CLOSE_FRAME);
      setTimeout(() => ws.terminate(), CLOSE_MS).unref();
    });
    this.#log('connected');
  }

  // --- writing --------------------------------------------------------------

  #written = () => {
    if (this.#state === 'closed') return;
    this.#session?.outbox.flush();
    this.#read();
  };

  #controlWritten = () => {
    this.#control--;
    this.#written();
  };

  /** Whether the socket takes more. */
  takesMore() {
    return this.#ws.readyState === WebSocket.OPEN && this.#ws.bufferedAmount < SOCKET_BYTES;
  }

  /** @param {string} text */
  send(text, written = this.#written) {
    this.#heartbeat?.sent();
    this.#ws.send(text, written);
  }

  /** Sends a frame without `id`, past the queue. @param {object} frame */
  #sendControl(frame, written = this.#controlWritten) {
    this.#control++;
    this.send(JSON.stringify(frame), written);
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
    const blocked = () => this.#control >= MAX_CONTROL || this.#session?.isClogged;
    while (this.#inbox.length > 0 && this.#state !== 'closed' && !blocked()) this.#examine(...this.#inbox.shift());
    this.#reading = false;
    if (this.#state === 'closed') return;
    if (blocked()) this.#ws.pause();
    else if (this.#ws.isPaused) this.#ws.resume();
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
    if (frame.type === 'ack' && !this.#session.profiles.has('ack')) return;
    if (row ? row.starts : has(frame, 'id')) {
      if (!isId(frame.id)) return this.close(4005);
      if (frame.id <= this.#session.lastId) return this.close(4003);
      return this.#session.start(frame);
    }
    if (!row) return this.#charge();
    if (frame.type === 'cancel') {
      if (!isId(frame.of)) return this.close(4005);
      if (frame.of > this.#session.lastId) return this.close(4003);
    }
    if (frame.type === 'ack') {
      if (!isId(frame.seq)) return this.close(4005);
      if (frame.seq > this.#session.outbox.sent) return this.close(4004);
    }
    if (!isWellFormed(frame)) return this.close(4005);
    switch (frame.type) {
      case 'hello': return this.#hello(frame);
      case 'ack': return this.#session.outbox.ack(/** @type {number} */ (frame.seq));
      case 'cancel': return this.#charge(() => this.#session.cancel(/** @type {number} */ (frame.of)));
      case 'ping': return this.#charge(() => this.#pong(frame));
    }
  }

  /** A frame without `id` pays or ends the connection. */
  #charge(then = () => {}) {
    if (this.#session.bucket.take()) then();
    else this.close(4302);
  }

  /** @param {Frame} frame */
  #pong({ t }) {
    const { profiles, outbox } = this.#session;
    this.#control++;
    /** @param {true} [held] */
    const pong = (held) => this.send(JSON.stringify({ type: 'pong', t, held }), this.#controlWritten);
    if (!profiles.has('fence')) pong();
    else if (outbox.isHeld) pong(true);
    else outbox.push({ pong });
  }

  /** @param {Frame} frame a good `hello` */
  #hello(frame) {
    const auth = /** @type {{token: string, scheme?: string} | undefined} */ (frame.auth);
    const identity = has(frame, 'auth') ? authenticate(auth) : this.#ambient;
    if (!identity) return this.close(4101);
    const profiles = negotiate(/** @type {string[]} */ (frame.profiles));
    const opened = this.#sessions.open({ identity, profiles, limits: frame.limits, resume: frame.resume });
    if (!opened) return this.close(4008);

    clearTimeout(this.#helloTimer);
    const { session, says } = opened;
    this.#session = session;
    this.#state = 'ready';
    this.#ws._receiver._maxPayload = session.limits.max_frame; // `ws` has no other way to lower it
    this.send(JSON.stringify({
      type: 'welcome',
      conn: this.#conn,
      ...says,
      profiles,
      limits: visibleLimits(session.limits, profiles),
      heartbeat: HEARTBEAT,
      auth: { principal: identity.principal, expires_in_ms: identity.expiresInMs },
      server: { name: 'holdfast-node-ws', version: '1.0.0' },
    }));
    this.#heartbeat = new Heartbeat(HEARTBEAT, { ping: () => this.#ping(), dead: () => this.close(4304) });
    this.watchExpiry(identity);
    if (this.isDraining) this.#goaway();
    session.attach(this);
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

  // --- the end --------------------------------------------------------------

  /** @param {Identity} identity */
  watchExpiry({ expiresInMs }) {
    clearTimeout(this.#expiryTimer);
    if (expiresInMs !== undefined) this.#expiryTimer = setTimeout(() => this.expire(), expiresInMs);
  }

  /** Lets the identity expire now. */
  expire() {
    this.close(4100);
  }

  get isDraining() {
    return this.#deadline < Infinity;
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

  /** Another connection has the session now. */
  supersede() {
    this.#session = null;
    this.close(4008);
  }

  /** Closes with a code, behind what is queued. @param {number} code */
  close(code) {
    if (this.#state === 'closed') return;
    this.#log(`closing ${code}`);
    this.#session?.outbox.flush(true);
    this.#end(code);
    this.#ws.close(code, CLOSE_NAMES.get(code) ?? '');
    this.#ws.resume();
  }

  /** Ends the TCP connection without a close frame. */
  abort() {
    this.#end(NO_CLOSE_FRAME);
    this.#ws.terminate();
  }

  /** @param {number} code that decides what becomes of the session */
  #end(code) {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    this.#heartbeat?.stop();
    for (const timer of [this.#helloTimer, this.#expiryTimer, this.#drainTimer]) clearTimeout(timer);
    this.#inbox.length = 0;
    const session = this.#session;
    this.#session = null;
    session?.lose(keepsSession(code));
  }
}
