//! Facts of absence that a newer one of the same key implies: of the facts of one key in a victim only the
//! newest is kept.
//!
//! Invariant: a fact is implied when the same victim holds a newer one of the same table and the same key,
//! byte for byte; hashes only say where to look. Whatever lets the newer one go lets the older one go, too:
//! a newer entry in memory, a clear above it, a map that was dropped, a survey that found no older entry. So
//! what is implied stays so, also when the victim is left for later. The older one goes with its victim, and
//! by then the newer one's copy, or what let it go, is durable. What cannot be read implies nothing; who
//! copies it finds it damaged.
//!
//! Without this a key that comes and goes beside an old record of its own, which no survey may forget, would
//! leave a fact each time for good. Caller: the compactor, when a victim was read (`of_victim`); the choice
//! of victims (`kept_share`). Cost: a look at each fact of a victim, and 24 bytes while it lasts; nothing of
//! what it says is kept in memory but a bit a fact. See `docs/compaction.md`, "Facts of absence".

use rapidhash::RapidHashMap;

use super::lines::Line;
use super::survivors::record_at;
use crate::chunks::catalogue::Chunk;
use crate::chunks::sample::Sample;
use crate::format::{LineKind, MapId, StreamId};

/// Adds those among the facts of a victim, which was read whole, that it may be freed without.
pub(super) fn note_implied(victim: &mut Chunk, lines: &[Line], bytes: &[u8]) {
    of_victim(lines, bytes).into_iter().for_each(|number| victim.forgettable.insert(number));
}

/// The numbers of the facts of absence, counted among all facts, that another of the same victim implies.
fn of_victim(lines: &[Line], bytes: &[u8]) -> Vec<usize> {
    // The hash is seeded: nobody can choose keys that all come to one place.
    let mut newest: RapidHashMap<(MapId, StreamId, u64), (usize, &Line)> = RapidHashMap::default();
    let mut implied = Vec::new();
    let facts = lines.iter().filter(|line| line.line.kind.is_fact()).enumerate();
    for (number, line) in facts.filter(|(_, line)| line.line.kind == LineKind::Absence) {
        let of_key =
            newest.entry((line.map, line.stream, line.line.hash)).or_insert((number, line));
        let (known_number, known) = *of_key;
        if known_number == number || !is_of_one_key(known, line, bytes) {
            continue;
        }
        if known.line.seq < line.line.seq {
            implied.push(known_number);
            *of_key = (number, line);
        } else {
            implied.push(number);
        }
    }
    implied
}

fn is_of_one_key(one: &Line, other: &Line, bytes: &[u8]) -> bool {
    match (record_at(bytes, one), record_at(bytes, other)) {
        (Ok((one, _)), Ok((other, _))) => one.key == other.key,
        _ => false,
    }
}

/// The share of a chunk's facts of absence that none of its others implies, as its sample lets suppose: the
/// number of their keys, of which those that were seen once and twice tell how many were not seen at all
/// (Chao's estimator), by the number of facts. Where no key was seen twice nothing is known of those that
/// were seen once, and all of them count.
pub(super) fn kept_share(samples: &[Sample], facts: u32) -> f64 {
    let mut facts_of: RapidHashMap<(MapId, StreamId, u64), Vec<u64>> = RapidHashMap::default();
    for Sample { stamp, .. } in samples.iter().filter(|sample| sample.kind == LineKind::Absence) {
        let seqs = facts_of.entry((stamp.map, stamp.stream, stamp.hash)).or_default();
        // A long record is there once for each place that it covers.
        if !seqs.contains(&stamp.seq.0) {
            seqs.push(stamp.seq.0);
        }
    }
    let seen = |times: usize| facts_of.values().filter(|seqs| seqs.len() == times).count() as f64;
    let (once, twice) = (seen(1), seen(2));
    let sampled: usize = facts_of.values().map(Vec::len).sum();
    if sampled == 0 {
        return 1.0;
    }
    let keys = facts_of.len() as f64;
    let share = if twice == 0.0 {
        once / sampled as f64
    } else {
        (keys + once * once / (2.0 * twice)) / f64::from(facts.max(1))
    };
    share.max(keys / f64::from(facts.max(1))).min(1.0)
}

#[cfg(test)]
mod tests {
    use hdstore::{Seq, Stamp};

    use super::*;
    use crate::format::{DirectoryLine, RecordHeader, Records};
    use crate::io::sim::Random;

    /// Facts of absence of these keys and seqs as they stand in a victim, each with its line.
    fn victim(
        facts: &[(u32, u32, &[u8], u64)],
        hash: impl Fn(&[u8]) -> u64,
    ) -> (Vec<Line>, Vec<u8>) {
        let mut bytes = vec![0; 64];
        let mut lines = Vec::new();
        for (map, stream, key, seq) in facts {
            let (map, stream) = (MapId(*map), StreamId(*stream));
            let header =
                RecordHeader { seq: *seq, ..RecordHeader::absence(map, stream, key.len()) };
            let offset = bytes.len();
            bytes.resize(offset + header.encoded_len(), 0);
            header.encode_into(key, b"", &mut bytes[offset..]);
            let record = Records::new(&bytes[offset..]).next().expect("one").expect("whole");
            lines.push(Line { map, stream, line: DirectoryLine::of(&record, offset, &hash) });
        }
        (lines, bytes)
    }

    #[test]
    fn of_the_facts_of_one_key_the_newest_is_kept_wherever_it_stands() {
        let facts: [(u32, u32, &[u8], u64); 8] = [
            (1, 0, b"a", 10),
            (1, 0, b"b", 11),
            (1, 0, b"a", 30),
            (1, 0, b"a", 20),
            (1, 3, b"a", 5),
            (2, 0, b"a", 6),
            (1, 0, b"b", 12),
            (1, 0, b"c", 1),
        ];
        let (lines, bytes) = victim(&facts, |key| u64::from(key[0]));
        let mut implied = of_victim(&lines, &bytes);
        implied.sort_unstable();
        assert_eq!(implied, [0, 1, 3], "other tables and other keys keep theirs");
    }

    #[test]
    fn keys_that_share_a_hash_keep_their_facts() {
        let facts: [(u32, u32, &[u8], u64); 5] = [
            (1, 0, b"one", 10),
            (1, 0, b"two", 20),
            (1, 0, b"one", 30),
            (1, 0, b"two", 40),
            (1, 0, b"one", 50),
        ];
        let (lines, bytes) = victim(&facts, |_| 77);
        let implied = of_victim(&lines, &bytes);
        assert!(!implied.contains(&4) && !implied.contains(&3), "the newest of a key: {implied:?}");
        assert!(implied.contains(&0) && implied.contains(&2), "{implied:?}");
    }

    #[test]
    fn numbers_count_clears_too_and_what_is_damaged_implies_nothing() {
        let facts: [(u32, u32, &[u8], u64); 3] =
            [(1, 0, b"a", 10), (1, 0, b"a", 20), (1, 0, b"a", 30)];
        let (mut lines, mut bytes) = victim(&facts, |_| 5);
        let clear = DirectoryLine { kind: LineKind::Clear, hash: 0, ..lines[0].line };
        lines.insert(0, Line { line: clear, ..lines[0] });
        assert_eq!(of_victim(&lines, &bytes), [1, 2]);
        let of_newest = lines[3].line.offset as usize;
        bytes[of_newest] = 0xff;
        assert_eq!(of_victim(&lines, &bytes), [1], "the newest that can be read is kept");
    }

    /// A sample of a chunk of `facts` facts, each of a key that `key` gives.
    fn sampled(facts: u64, key: impl Fn(&mut Random) -> u64) -> Vec<Sample> {
        let mut random = Random::new(facts);
        let of_fact = |index: u64| {
            let (map, stream, seq) = (MapId(1), StreamId(0), Seq(1 + index * facts / 28));
            let stamp = Stamp { map, stream, hash: key(&mut random), seq };
            Sample { stamp, kind: LineKind::Absence }
        };
        (0..28).map(of_fact).collect()
    }

    #[test]
    fn chunks_of_facts_of_few_keys_are_known_for_garbage_and_those_of_many_are_not() {
        let few = sampled(18_000, |random| random.below(24) as u64);
        assert!(kept_share(&few, 18_000) < 0.01, "{}", kept_share(&few, 18_000));
        let one = sampled(18_000, |_| 7);
        assert!(kept_share(&one, 18_000) < 0.001, "{}", kept_share(&one, 18_000));
        let many = sampled(18_000, |random| random.next());
        assert_eq!(kept_share(&many, 18_000), 1.0);
        let half = sampled(18_000, |random| if random.below(2) == 0 { 7 } else { random.next() });
        let share = kept_share(&half, 18_000);
        assert!((0.3..0.7).contains(&share), "{share} of a half");
        let long = [many[0]; 20];
        assert_eq!(kept_share(&long, 1), 1.0, "one long record is no two facts");
        assert_eq!(kept_share(&[], 0), 1.0);
    }
}
