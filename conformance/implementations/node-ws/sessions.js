/** The sessions of profile `resume` by name: who may go on with which. */

import { createHash, randomBytes } from 'node:crypto';
import { Session } from './session.js';
import { MAX_SUSPENDED, MAX_TOMBSTONES } from './settings.js';
import { now } from './timers.js';

/**
 * What is left of a session that has ended.
 * @typedef {object} Tombstone
 * @property {string} key
 * @property {string} principal
 * @property {number} attempt
 * @property {number} lastId
 * @property {'expired' | 'ended'} why
 * @property {NodeJS.Timeout} timer
 */

/** @typedef {{session: string, seq: number, attempt: number}} Resume */

/** @param {string} name */
const hash = (name) => createHash('sha256').update(name).digest('base64url');

/** Sets by principal; the empty ones are not kept. */
class Groups {
  #groups = new Map();

  /** @param {string} principal */
  of(principal) {
    return this.#groups.get(principal) ?? new Set();
  }

  /** @param {{principal: string}} member */
  add(member) {
    this.#groups.set(member.principal, this.of(member.principal).add(member));
  }

  /** @param {{principal: string}} member */
  delete(member) {
    const group = this.of(member.principal);
    group.delete(member);
    if (group.size === 0) this.#groups.delete(member.principal);
  }
}

export class Sessions {
  /** @type {Map<string, Session>} by the hash of the name */
  #sessions = new Map();
  /** @type {Map<string, Tombstone>} */
  #tombstones = new Map();
  /** In the order in which they were suspended. */
  #suspended = new Groups();
  /** In the order in which they ended. */
  #dead = new Groups();
  #broker;
  #log;

  /** @param {{broker: import('./broker.js').Broker, log: (line: string) => void}} context */
  constructor({ broker, log }) {
    this.#broker = broker;
    this.#log = log;
  }

  /**
   * What a good `hello` leads to: a session and what `welcome` says about it, or null when the hello came too late.
   * @param {{identity: import('./settings.js').Identity, profiles: string[], limits?: {max_frame?: number, window?: number}, resume?: Resume}} hello
   */
  open(hello) {
    const { identity, profiles, resume } = hello;
    if (!profiles.includes('resume')) return { session: this.#create(hello), says: {} };
    if (!resume) return this.#begin(hello);

    const key = hash(resume.session);
    this.#lookTwice(key);
    const known = this.#sessions.get(key) ?? this.#tombstones.get(key);
    if (!known || known.principal !== identity.principal) return this.#begin(hello, { code: 'not_found' });
    if (resume.attempt <= known.attempt) return null;
    known.attempt = resume.attempt;
    if (!(known instanceof Session)) return this.#begin(hello, { code: known.why, last_id: known.lastId });
    known.detach();
    if (!known.accepts(profiles, resume.seq)) {
      this.end(known, 'ended');
      return this.#begin(hello, { code: 'mismatch', last_id: known.lastId });
    }
    this.#wake(known);
    known.resume(identity, resume.seq);
    return { session: known, says: { session: resume.session, resumed: true, last_id: known.lastId } };
  }

  /** A new session that can be resumed. */
  #begin(hello, resume_error) {
    const name = randomBytes(24).toString('base64url');
    const session = this.#create(hello);
    session.key = hash(name);
    this.#sessions.set(session.key, session);
    return { session, says: { session: name, resumed: false, resume_error } };
  }

  #create({ identity, profiles, limits }) {
    return new Session({ identity, profiles, lowered: limits, sessions: this, broker: this.#broker, log: this.#log });
  }

  /** A timer may be late: what is too old counts as gone. @param {string} key */
  #lookTwice(key) {
    const session = this.#sessions.get(key);
    if (session?.suspendedAt !== undefined && now() - session.suspendedAt >= session.limits.resume_ms) this.end(session, 'expired');
  }

  /** Keeps a session that has lost its connection. @param {Session} session */
  suspend(session) {
    session.suspendedAt = now();
    session.timer = setTimeout(() => this.end(session, 'expired'), session.limits.resume_ms);
    this.#suspended.add(session);
    const [oldest] = this.#suspended.of(session.principal);
    if (this.#suspended.of(session.principal).size > MAX_SUSPENDED) this.end(oldest, 'expired');
  }

  /** @param {Session} session */
  #wake(session) {
    clearTimeout(session.timer);
    session.suspendedAt = undefined;
    this.#suspended.delete(session);
  }

  /** Ends a session that has no connection any more. @param {Session} session @param {'expired' | 'ended'} why */
  end(session, why) {
    this.#wake(session);
    session.end();
    const { key, principal, attempt, lastId } = session;
    if (!this.#sessions.delete(key)) return;
    const tombstone = { key, principal, attempt, lastId, why, timer: setTimeout(() => this.#bury(tombstone), session.limits.resume_ms) };
    this.#tombstones.set(key, tombstone);
    this.#dead.add(tombstone);
    const [oldest] = this.#dead.of(principal);
    if (this.#dead.of(principal).size > MAX_TOMBSTONES) this.#bury(oldest);
  }

  /** @param {Tombstone} tombstone */
  #bury(tombstone) {
    clearTimeout(tombstone.timer);
    this.#tombstones.delete(tombstone.key);
    this.#dead.delete(tombstone);
  }

  /** Whether a session can be resumed. @param {Session} session */
  knows(session) {
    return this.#sessions.has(session.key);
  }

  /** Makes a session unknown to later resumes. @param {Session} session */
  forget(session) {
    this.#sessions.delete(session.key);
    if (session.suspendedAt !== undefined) this.end(session, 'ended');
  }
}
