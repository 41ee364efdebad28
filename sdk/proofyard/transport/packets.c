// Packets of one connection, many at a time: AES-GCM by the OpenSSL that Python has, and around it what packets that
// carry one stream's data need of RFC 9000. Compiled by packets.py. Nothing is kept between two calls but the keys.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  void *(*context)(void);
  void (*release)(void *);
  const void *(*gcm)(void);
  int (*encrypt_init)(void *, const void *, void *, const uint8_t *, const uint8_t *);
  int (*encrypt)(void *, uint8_t *, int *, const uint8_t *, int);
  int (*encrypt_final)(void *, uint8_t *, int *);
  int (*decrypt_init)(void *, const void *, void *, const uint8_t *, const uint8_t *);
  int (*decrypt)(void *, uint8_t *, int *, const uint8_t *, int);
  int (*decrypt_final)(void *, uint8_t *, int *);
  int (*control)(void *, int, int, void *);
} Crypto; // EVP_*, in the order of packets.FUNCTIONS

enum { GET_TAG = 0x10, SET_TAG = 0x11, NONCE = 12, TAG = 16, SAMPLE = 16, LONGEST_NUMBER = 4, SENT_NUMBER = 2 };
enum { FIXED_BITS = 0xDC, STREAM = 0x08, OFFSET = 4, LENGTH = 2, FIN = 1, BULK = STREAM | OFFSET | LENGTH };
// Of a short header without its protection: form, fixed bit, the reserved ones, the key phase. Of a STREAM frame: its
// type and what it has.

static Crypto crypto;

typedef struct {
  void *context;
  uint8_t iv[NONCE];
} Keys;

void packets_use(const Crypto *functions) { crypto = *functions; }

void packets_release(Keys *keys) {
  if (keys) crypto.release(keys->context);
  free(keys);
}

// NULL where the cipher cannot be set up. AES-128, as QUIC version 1 has it in every implementation.
Keys *packets_keys(const uint8_t *key, const uint8_t *iv, int sends) {
  Keys *keys = calloc(1, sizeof *keys);
  if (!keys) return NULL;
  keys->context = crypto.context();
  int (*init)(void *, const void *, void *, const uint8_t *, const uint8_t *) =
      sends ? crypto.encrypt_init : crypto.decrypt_init;
  if (!keys->context || init(keys->context, crypto.gcm(), NULL, key, NULL) != 1) {
    packets_release(keys);
    return NULL;
  }
  memcpy(keys->iv, iv, NONCE);
  return keys;
}

static void nonce_of(const Keys *keys, uint64_t number, uint8_t *nonce) {
  memcpy(nonce, keys->iv, NONCE);
  for (int i = 0; i < 8; i++) nonce[NONCE - 1 - i] ^= (uint8_t)(number >> 8 * i);
}

static uint64_t pull(const uint8_t *from, int64_t size) {
  uint64_t value = 0;
  for (int64_t i = 0; i < size; i++) value = value << 8 | from[i];
  return value;
}

static uint8_t *push(uint8_t *to, uint64_t value, int size) {
  for (int i = 0; i < size; i++) to[i] = (uint8_t)(value >> 8 * (size - 1 - i));
  return to + size;
}

// ------------------------------------------------------------------------------------------------ what is sent

typedef struct {
  int64_t id, start, held, highest, limit, fin; // the range that is to be sent, and what the peer allows
  int64_t base;                                 // the offset of the first byte of `data`
  const uint8_t *data;
} Source;

typedef struct {
  int64_t source, start, stop;
} Sent;

static int varint_size(uint64_t value) { return value < 1 << 6 ? 1 : value < 1 << 14 ? 2 : value < 1 << 30 ? 4 : 8; }

static uint8_t *push_varint(uint8_t *to, uint64_t value) {
  int size = varint_size(value);
  uint64_t mark = size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3;
  return push(to, value | mark << (8 * size - 2), size);
}

static int seal(const Keys *keys, uint64_t number, const uint8_t *header, int header_size, uint8_t *body, int size) {
  uint8_t nonce[NONCE];
  int done;
  nonce_of(keys, number, nonce);
  return crypto.encrypt_init(keys->context, NULL, NULL, NULL, nonce) == 1 &&
         crypto.encrypt(keys->context, NULL, &done, header, header_size) == 1 &&
         crypto.encrypt(keys->context, body, &done, body, size) == 1 && done == size &&
         crypto.encrypt_final(keys->context, body + size, &done) == 1 &&
         crypto.control(keys->context, GET_TAG, TAG, body + size) == 1;
}

// Up to `most` packets of `size` bytes, each full of the data of the source whose turn it is; how many there are, -1
// where encryption failed. Sources are taken in the order of `turns`; one that has sent something new goes to its end.
// It ends where a source has something, but not enough for a packet, where the range of one is used up, and at one that
// holds less than nothing. `room` is what all may send together. Headers are not hidden yet: for that there is a sample
// of each packet.
int64_t packets_seal(const Keys *keys, const uint8_t *start, int64_t start_size, uint64_t number, int64_t size,
                     int64_t most, Source *sources, int64_t *turns, int64_t count, int64_t *room, uint8_t *out,
                     Sent *sent, uint8_t *samples) {
  const int64_t header_size = start_size + SENT_NUMBER, payload = size - header_size - TAG;
  int64_t made = 0;
  for (int64_t turn = 0; made < most && turn < count;) {
    Source *source = &sources[turns[turn]];
    if (source->held < 0) break;
    int64_t allowed = source->highest + *room;
    int64_t end = source->held < allowed ? source->held : allowed;
    if (source->limit < end) end = source->limit;
    if (end <= source->start) {
      turn++;
      continue;
    }
    int64_t head = 3 + varint_size((uint64_t)source->id) + (source->start ? varint_size((uint64_t)source->start) : 0);
    int64_t length = payload - head, stop = source->start + length;
    if (length <= 0 || stop > end) break;

    uint8_t *packet = out + made * size, *body = packet + header_size, *at = body;
    memcpy(packet, start, (size_t)start_size);
    push(packet + start_size, number & 0xFFFF, SENT_NUMBER);
    *at++ = (uint8_t)(STREAM | LENGTH | (source->start ? OFFSET : 0) | (source->fin == stop ? FIN : 0));
    at = push_varint(at, (uint64_t)source->id);
    if (source->start) at = push_varint(at, (uint64_t)source->start);
    at = push(at, 0x4000 | (uint64_t)length, 2);
    memcpy(at, source->data + (source->start - source->base), (size_t)length);
    if (!seal(keys, number, packet, (int)header_size, body, (int)payload)) return -1;
    memcpy(samples + made * SAMPLE, body + LONGEST_NUMBER - SENT_NUMBER, SAMPLE);

    sent[made++] = (Sent){turns[turn], source->start, stop};
    number++;
    source->start = stop;
    if (stop > source->highest) {
      *room -= stop - source->highest;
      source->highest = stop;
      int64_t moved = turns[turn];
      memmove(turns + turn, turns + turn + 1, (size_t)(count - turn - 1) * sizeof *turns);
      turns[count - 1] = moved;
    }
    if (stop == source->held) break;
    turn = 0;
  }
  return made;
}

// Hide the headers of `count` packets of `size` bytes behind masks of 16 bytes each (RFC 9001 section 5.4.1).
void packets_hide(uint8_t *out, int64_t start_size, int64_t size, int64_t count, const uint8_t *masks) {
  for (int64_t i = 0; i < count; i++) {
    uint8_t *packet = out + i * size;
    const uint8_t *mask = masks + i * SAMPLE;
    packet[0] ^= mask[0] & 0x1F;
    for (int j = 0; j < SENT_NUMBER; j++) packet[start_size + j] ^= mask[1 + j];
  }
}

// --------------------------------------------------------------------------------------------------- what came

typedef struct {
  int64_t id, next, limit, size; // `next` byte that is missing, `limit` that the peer may send; `size` of what came
} Growth;

typedef struct {
  int64_t at;             // the datagram that is looked at
  int64_t start, stop;    // numbers of the packets in the run
  int64_t expected;       // packet number, to which shown ones are filled up
  int64_t largest;        // number that was received before
  int64_t room;           // bytes that the peer may still send on all streams
  int64_t bits;           // the first byte of the run's last header
  int64_t growths;        // streams that are known
  int64_t filled;         // bytes in `plain`
  int64_t number, first, size; // a packet that is not part of the run: its number, first byte and payload's size
  int64_t stream;         // whose growth is asked for
} Run;

enum { UNUSUAL, OTHER, ASKS }; // why a run stands still

static int64_t full_number(uint64_t shown, int bits, int64_t expected) {
  int64_t window = (int64_t)1 << bits, half = window / 2;
  int64_t candidate = (int64_t)(((uint64_t)expected & ~(uint64_t)(window - 1)) | shown);
  if (candidate <= expected - half && candidate < ((int64_t)1 << 62) - window) return candidate + window;
  if (candidate > expected + half && candidate >= window) return candidate - window;
  return candidate;
}

static int opens(const Keys *keys, uint64_t number, const uint8_t *header, int header_size, const uint8_t *body,
                 int size, uint8_t *plain) {
  uint8_t nonce[NONCE], rest[TAG];
  int done;
  nonce_of(keys, number, nonce);
  return crypto.decrypt_init(keys->context, NULL, NULL, NULL, nonce) == 1 &&
         crypto.decrypt(keys->context, NULL, &done, header, header_size) == 1 &&
         crypto.decrypt(keys->context, plain, &done, body, size) == 1 && done == size &&
         crypto.control(keys->context, SET_TAG, TAG, (void *)(body + size)) == 1 &&
         crypto.decrypt_final(keys->context, rest, &done) == 1;
}

// Whether a payload of `size` bytes is one frame that goes on where its stream was: then it is part of the run, its
// data behind what came before. 2 where that stream's growth has to be asked for first.
static int continues(Run *run, Growth *growths, int32_t *owners, int64_t *pieces, int64_t number, uint8_t *plain,
                     int64_t size) {
  if (number <= run->largest || (number != run->stop && run->stop > run->start)) return 0;
  if (size < 1 + 8 + 6 || plain[0] != BULK) return 0;
  int64_t id_size = (int64_t)1 << (plain[1] >> 6), at = 1 + id_size;
  int64_t id = (int64_t)(pull(plain + 1, id_size) & (((uint64_t)1 << (8 * id_size - 2)) - 1));
  Growth *growth = growths;
  while (growth < growths + run->growths && growth->id != id) growth++;
  if (growth == growths + run->growths) {
    run->stream = id;
    return 2;
  }
  if (growth->next < 0 || plain[at] >> 6 != 2 || plain[at + 4] >> 6 != 1) return 0;
  int64_t offset = (int64_t)(pull(plain + at, 4) & 0x3FFFFFFF), length = (int64_t)(pull(plain + at + 4, 2) & 0x3FFF);
  at += 6;
  if (offset != growth->next || length == 0 || length != size - at) return 0;
  if (offset + length > growth->limit || length > run->room) return 0;
  if (run->stop == run->start) run->start = number;
  int64_t index = number - run->start;
  owners[index] = (int32_t)(growth - growths);
  pieces[index] = length;
  memmove(plain, plain + at, (size_t)length);
  growth->next += length;
  growth->size += length;
  run->filled += length;
  run->room -= length;
  run->stop = number + 1;
  return 1;
}

// Take datagrams from `run->at` on as long as they go on where their streams were. They lie one behind the other, each
// has `sizes` bytes and a mask of 16. Standing still it says why; `again` goes on with the packet that it stood still
// at, which lies behind `run->filled`. `plain` has room for all datagrams together; `owners`, `pieces` and `growths`
// have one place for each.
int64_t packets_open(const Keys *keys, const uint8_t *cid, int64_t cid_size, int64_t usual, int64_t count,
                     const uint8_t *datagrams, const int64_t *sizes, const uint8_t *masks, Run *run,
                     Growth *growths, int32_t *owners, int64_t *pieces, uint8_t *plain, int64_t again) {
  uint8_t header[1 + 20 + LONGEST_NUMBER];
  const int64_t number_at = 1 + cid_size;
  const uint8_t *next = datagrams;
  for (int64_t i = 0; i < run->at; i++) next += sizes[i];
  for (; run->at < count; run->at++) {
    const uint8_t *data = next, *mask = masks + run->at * SAMPLE;
    int64_t size = sizes[run->at];
    next += size;
    uint8_t *body = plain + run->filled;
    if (!again) {
      if (size < number_at + LONGEST_NUMBER + SAMPLE) return UNUSUAL;
      header[0] = data[0] ^ (mask[0] & 0x1F);
      if ((header[0] & FIXED_BITS) != usual || memcmp(data + 1, cid, (size_t)cid_size)) return UNUSUAL;
      int number_size = (header[0] & 3) + 1;
      memcpy(header + 1, cid, (size_t)cid_size);
      for (int i = 0; i < number_size; i++) header[number_at + i] = data[number_at + i] ^ mask[1 + i];
      int64_t start = number_at + number_size;
      run->number = full_number(pull(header + number_at, number_size), 8 * number_size, run->expected);
      run->first = header[0];
      run->size = size - start - TAG;
      if (!opens(keys, (uint64_t)run->number, header, (int)start, data + start, (int)run->size, body)) continue;
    }
    again = 0;
    int found = continues(run, growths, owners, pieces, run->number, body, run->size);
    if (found != 1) return found ? ASKS : OTHER;
    run->bits = run->first;
    if (run->number > run->expected) run->expected = run->number + 1;
  }
  return UNUSUAL;
}

// The data of a run, in the order in which it came, sorted by its streams.
void packets_sort(const Run *run, const Growth *growths, const int32_t *owners, const int64_t *pieces,
                  const uint8_t *plain, uint8_t *sorted) {
  for (int64_t which = 0; which < run->growths; which++) {
    const uint8_t *from = plain;
    if (growths[which].size == 0) continue;
    for (int64_t i = 0; i < run->stop - run->start; i++) {
      if (owners[i] == which) {
        memcpy(sorted, from, (size_t)pieces[i]);
        sorted += pieces[i];
      }
      from += pieces[i];
    }
  }
}
