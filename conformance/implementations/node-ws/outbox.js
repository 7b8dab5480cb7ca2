/** The outgoing queue of one session, and with profile `ack` the window behind it. */

/** @typedef {import('./broker.js').Event} Event */
/** @typedef {import('./log.js').Place} Place */

/**
 * One frame in the queue.
 * @typedef {object} Entry
 * @property {string} [text] a frame that is encoded already
 * @property {Event} [event]
 * @property {'overflow' | 'too_large' | 'expired'} [gap]
 * @property {string} [cursor] of a gap
 * @property {number} [missed] how many events of the channel this frame stands for
 * @property {Place} [before] where the log goes on when this frame is given up
 * @property {number} [bytes] what it counts for; absent when it does not count
 * @property {Lane} [lane]
 * @property {(held?: true) => void} [pong] writes a fenced pong, which has no `id`
 * @property {() => void} [left] called when the frame has left the queue, written or not
 */

/**
 * The connection below.
 * @typedef {object} Link
 * @property {() => boolean} takesMore
 * @property {(text: string) => void} send
 */

/** @typedef {(place: Place) => {event?: Event, gap?: string, place: Place} | null} Next reads a log */

/** What the queue keeps for one exchange that sends more than a terminal. */
export class Lane {
  /** @type {Set<Entry>} everything queued that the end of the exchange may discard */
  queued = new Set();
  /** @type {Set<Entry>} the queued events that an overflow may drop */
  backlog = new Set();
  /** Bytes of the queued events. */
  bytes = 0;
  /** @type {Entry | null} the queued gap that still takes losses */
  gap = null;
  /** @type {Place | null} while events come from the log: the place from which it is read */
  place = null;
  /** @type {Entry | null} the queued event that came from the log */
  replayed = null;

  /** @param {number} id @param {Next} [next] the log of a subscription that has one */
  constructor(id, next) {
    this.id = id;
    this.next = next;
  }
}

/** The bytes of the longest member `seq` with its comma. */
export const SEQ_BYTES = 24;

/** The bytes of an event frame before its channel. @param {number} id @param {string} [cursor] */
export const eventHead = (id, cursor) => `{"type":"event","id":${id},${cursor === undefined ? '' : `"cursor":"${cursor}",`}`;

/** @param {Entry} entry */
function encode({ text, event, gap, cursor, missed, lane }) {
  if (gap) return JSON.stringify({ type: 'gap', id: lane.id, reason: gap, missed, cursor });
  return event ? eventHead(lane.id, lane.next && event.cursor) + event.head + event.body : text;
}

export class Outbox {
  /** @type {Set<Entry>} in the order of writing */
  #entries = new Set();
  #pongs = 0;
  /** @type {Set<Lane>} lanes with queued events */
  #lanes = new Set();
  /** @type {Set<Lane>} lanes that are read from their logs */
  #replaying = new Set();
  #events = 0;
  #bytes = 0;
  #limits;
  #frameLimit;
  #numbered;
  /** @type {Link | null} */
  #link = null;

  /** Frames that may be asked for again, by `seq`. @type {Map<number, {text: string, bytes: number}>} */
  #unacked = new Map();
  #unackedBytes = 0;
  /** Those that this connection has not written yet. @type {Iterator<{text: string}> | null} */
  #again = null;
  sent = 0;
  acked = 0;

  /**
   * @param {import('./settings.js').Limits} limits
   * @param {{frameLimit: number, numbered: boolean}} options the largest frame that the client accepts; whether profile `ack` is in force
   */
  constructor(limits, { frameLimit, numbered }) {
    this.#limits = limits;
    this.#numbered = numbered;
    this.#frameLimit = frameLimit - (numbered ? SEQ_BYTES : 0);
  }

  /** The largest frame without its `seq`. */
  get frameLimit() {
    return this.#frameLimit;
  }

  get windowOpen() {
    const { window, window_bytes } = this.#limits;
    return !this.#numbered || (this.sent - this.acked < window && this.#unackedBytes < window_bytes);
  }

  /** Whether the window or a replay keeps back what is queued. */
  get isHeld() {
    return this.#replaying.size > 0 || (!this.windowOpen && this.#entries.size > this.#pongs);
  }

  /** Goes on with a connection: first what may have been lost with the one before. @param {Link} link */
  attach(link) {
    this.#link = link;
    this.#again = this.#unacked.values();
    this.flush();
  }

  /** Keeps everything but the pongs, which belong to a connection. */
  detach() {
    this.#link = null;
    this.#again = null;
    for (const entry of this.#entries) if (entry.pong) this.#remove(entry);
  }

  /** @param {number} seq up to which everything has arrived */
  ack(seq) {
    while (this.acked < seq) {
      this.#unackedBytes -= this.#unacked.get(++this.acked).bytes;
      this.#unacked.delete(this.acked);
    }
    this.flush();
  }

  /** Queues any frame but an event. @param {Entry} entry */
  push(entry) {
    entry.lane?.queued.add(entry);
    if (entry.pong) this.#pongs++;
    this.#entries.add(entry);
    this.flush();
  }

  /** Queues a new event, unless the log will bring it. @param {Lane} lane @param {Event} event */
  pushEvent(lane, event) {
    if (lane.place) return;
    const before = lane.next && { log: event.place.log, n: event.place.n - 1 };
    this.#add(this.#eventEntry(lane, event, before));
    this.flush();
    this.#shed();
  }

  /** Delivers the log from a place on. @param {Lane} lane @param {Place} place */
  replay(lane, place) {
    lane.place = place;
    this.#replaying.add(lane);
    this.flush();
  }

  /** Drops everything queued for an exchange that has ended early. @param {Lane} lane */
  discard(lane) {
    this.#replaying.delete(lane);
    for (const entry of lane.queued) {
      this.#remove(entry);
      entry.left?.();
    }
  }

  /** Drops the queued events that the client may not see any more. @param {Lane} lane @param {(channel: string) => boolean} maySee */
  withdraw(lane, maySee) {
    for (const entry of lane.backlog) if (entry.event && !maySee(entry.event.channel)) this.#remove(entry);
  }

  /** Writes while the socket and the window take more. @param {boolean} [all] whether the socket takes more or not */
  flush(all = false) {
    do this.#write(all);
    while (this.#refill() && !all);
  }

  /** @param {boolean} all */
  #write(all) {
    const canWrite = () => this.#link && (all || this.#link.takesMore());
    while (this.#again && canWrite()) {
      const { done, value } = this.#again.next();
      if (done) this.#again = null;
      else this.#link.send(value.text);
    }
    for (const entry of this.#entries) {
      if (!canWrite()) return;
      if (!entry.pong && !this.windowOpen) return this.#releasePongs(entry);
      this.#remove(entry);
      if (entry.pong) entry.pong();
      else this.#link.send(this.#number(encode(entry)));
      entry.left?.();
    }
  }

  /** Gives a frame its `seq` and keeps it, with profile `ack`. @param {string} text */
  #number(text) {
    if (!this.#numbered) return text;
    const numbered = `{"seq":${++this.sent},${text.slice(1)}`;
    const bytes = Buffer.byteLength(numbered);
    this.#unacked.set(this.sent, { text: numbered, bytes });
    this.#unackedBytes += bytes;
    return numbered;
  }

  /** Writes the pongs behind an entry that is kept back: they prove nothing now. @param {Entry} kept */
  #releasePongs(kept) {
    if (this.#pongs === 0) return;
    let isBehind = false;
    for (const entry of this.#entries) {
      isBehind ||= entry === kept;
      if (!isBehind || !entry.pong) continue;
      this.#remove(entry);
      entry.pong(true);
    }
  }

  /** Queues one event of each log that is being read; it does not count. Returns whether there was any. */
  #refill() {
    let hasAdded = false;
    for (const lane of this.#replaying) {
      if (lane.replayed) continue;
      const next = lane.next(lane.place);
      if (next) {
        const { bytes, ...entry } = next.event
          ? this.#eventEntry(lane, next.event)
          : { lane, gap: 'expired', cursor: next.gap };
        lane.queued.add(entry);
        this.#entries.add(entry);
        lane.replayed = entry;
        lane.place = next.place;
        hasAdded = true;
      }
      if (!next || !lane.next(lane.place)) {
        lane.place = null; // from here on it is live
        this.#replaying.delete(lane);
      }
    }
    return hasAdded;
  }

  /** @param {Lane} lane @param {Event} event @param {Place} [before] @returns {Entry} */
  #eventEntry(lane, event, before) {
    const cursor = lane.next && event.cursor;
    const bytes = eventHead(lane.id, cursor).length + event.bytes;
    if (bytes <= this.#frameLimit) return { lane, event, missed: 1, bytes, before };
    const entry = { lane, gap: 'too_large', missed: 1, cursor, before };
    return { ...entry, bytes: encode(entry).length };
  }

  /** Queues an event that an overflow may drop. @param {Entry} entry */
  #add(entry) {
    const { lane, bytes } = entry;
    lane.queued.add(entry);
    lane.backlog.add(entry);
    lane.bytes += bytes;
    this.#entries.add(entry);
    this.#lanes.add(lane);
    this.#events++;
    this.#bytes += bytes;
  }

  /** Brings the queued events back under the limits. */
  #shed() {
    const { queue, queue_bytes } = this.#limits;
    while (this.#events > queue || this.#bytes > queue_bytes) {
      const lane = [...this.#lanes].reduce((most, lane) => (lane.bytes > most.bytes ? lane : most));
      if (lane.next) this.#giveBack(lane);
      else this.#drop(lane);
    }
  }

  /** Leaves the queued events of a lane to its log. @param {Lane} lane */
  #giveBack(lane) {
    const [first] = lane.backlog;
    this.#releasePongs(first);
    lane.place = first.before;
    this.#replaying.add(lane);
    for (const entry of lane.backlog) this.#remove(entry);
  }

  /** Folds all queued events of a lane into one gap. @param {Lane} lane */
  #drop(lane) {
    for (const entry of lane.backlog) {
      if (lane.gap) {
        lane.gap.missed += entry.missed;
        this.#remove(entry);
      } else {
        this.#uncount(entry);
        delete entry.event;
        entry.gap = 'overflow';
        lane.gap = entry;
      }
    }
  }

  /** @param {Entry} entry */
  #remove(entry) {
    if (entry.pong) this.#pongs--;
    this.#entries.delete(entry);
    this.#uncount(entry);
    const { lane } = entry;
    lane?.queued.delete(entry);
    if (lane?.gap === entry) lane.gap = null;
    if (lane?.replayed === entry) lane.replayed = null;
  }

  /** @param {Entry} entry */
  #uncount(entry) {
    const { lane, bytes } = entry;
    if (bytes === undefined) return;
    delete entry.bytes;
    this.#events--;
    this.#bytes -= bytes;
    lane.bytes -= bytes;
    lane.backlog.delete(entry);
    if (lane.backlog.size === 0) this.#lanes.delete(lane);
  }
}
