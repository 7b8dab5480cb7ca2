/** The outgoing queue of one session. */

/** @typedef {import('./broker.js').Event} Event */

/**
 * One frame in the queue.
 * @typedef {object} Entry
 * @property {string} [text] a frame that is encoded already
 * @property {Event} [event]
 * @property {'overflow' | 'too_large'} [gap]
 * @property {number} [missed] how many events of the channel this frame stands for
 * @property {number} [bytes] what it counts for; absent when it does not count
 * @property {Lane} [lane]
 * @property {() => void} [left] called when the frame has left the queue, written or not
 * @property {() => void} [written] called when the socket is done with the frame
 */

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

  /** @param {number} id */
  constructor(id) {
    this.id = id;
  }
}

/** The bytes of an event frame without its tail. @param {number} id */
export const eventHead = (id) => `{"type":"event","id":${id},`;

/** @param {Entry} entry */
function encode({ text, event, gap, missed, lane }) {
  if (gap) return JSON.stringify({ type: 'gap', id: lane.id, reason: gap, missed });
  return event ? eventHead(lane.id) + event.tail : text;
}

export class Outbox {
  /** @type {Set<Entry>} in the order of writing */
  #entries = new Set();
  /** @type {Set<Lane>} lanes with queued events */
  #lanes = new Set();
  #events = 0;
  #bytes = 0;
  #limits;
  #frameLimit;
  #socket;

  /**
   * @param {{ready: () => boolean, send: (text: string, written?: () => void) => void}} socket
   * @param {{queue: number, queue_bytes: number}} limits
   * @param {number} frameLimit the largest frame that the client accepts
   */
  constructor(socket, limits, frameLimit) {
    this.#socket = socket;
    this.#limits = limits;
    this.#frameLimit = frameLimit;
  }

  /** Queues any frame but an event. @param {Entry} entry */
  push(entry) {
    entry.lane?.queued.add(entry);
    this.#entries.add(entry);
    this.flush();
  }

  /** @param {Lane} lane @param {Event} event */
  pushEvent(lane, event) {
    /** @type {Entry} */
    let entry = { lane, event, missed: 1, bytes: eventHead(lane.id).length + event.bytes };
    if (entry.bytes > this.#frameLimit) {
      entry = { lane, gap: 'too_large', missed: 1 };
      entry.bytes = encode(entry).length;
    }
    lane.queued.add(entry);
    lane.backlog.add(entry);
    lane.bytes += entry.bytes;
    this.#entries.add(entry);
    this.#lanes.add(lane);
    this.#events++;
    this.#bytes += entry.bytes;
    this.flush();
    this.#shed();
  }

  /** Drops everything queued for an exchange that has ended early. @param {Lane} lane */
  discard(lane) {
    for (const entry of lane.queued) {
      this.#remove(entry);
      entry.left?.();
    }
  }

  /** Writes from the head while the socket takes more. @param {boolean} [all] whether it takes more or not */
  flush(all = false) {
    for (const entry of this.#entries) {
      if (!all && !this.#socket.ready()) return;
      this.#remove(entry);
      this.#socket.send(encode(entry), entry.written);
      entry.left?.();
    }
  }

  /** Brings the queued events back under the limits. */
  #shed() {
    const { queue, queue_bytes } = this.#limits;
    while (this.#events > queue || this.#bytes > queue_bytes) {
      this.#drop([...this.#lanes].reduce((most, lane) => (lane.bytes > most.bytes ? lane : most)));
    }
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
    this.#entries.delete(entry);
    this.#uncount(entry);
    const { lane } = entry;
    lane?.queued.delete(entry);
    if (lane?.gap === entry) lane.gap = null;
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
