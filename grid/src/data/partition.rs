//! Which partition a key lies in: Hazelcast's rule, so that its clients find it.

use super::DataRef;

/// How many partitions a cluster has unless it is told otherwise.
pub const PARTITION_COUNT_DEFAULT: u32 = 271;
/// The seed of Hazelcast's murmur3.
const SEED: u32 = 0x0100_0193;

/// A partition of the key space, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PartitionId(pub u32);

impl DataRef<'_> {
    /// The hash that chooses the partition: what the key's client gave, else murmur3 (x86, 32 bits) of the
    /// payload.
    #[must_use]
    pub fn partition_hash(&self) -> i32 {
        match self.hash() {
            0 => mur3::murmurhash3_x86_32(self.payload(), SEED) as i32,
            given => given,
        }
    }

    /// The partition of a key among so many.
    ///
    /// # Panics
    /// When there are none.
    #[must_use]
    pub fn partition(&self, count: u32) -> PartitionId {
        assert!(count > 0, "a cluster has partitions");
        // The magnitude of the lowest number is none in Java: it is 0 there.
        PartitionId(self.partition_hash().checked_abs().map_or(0, |hash| hash as u32 % count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Data, TypeId};

    fn of_hex(hex: &str) -> Data {
        let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
        Data::from_heap(&bytes).expect("data")
    }

    #[test]
    fn keys_of_other_clients_lie_where_those_look_for_them() {
        // As the Python and Node clients of Hazelcast 5.5 send them.
        for (sent, hash, partition) in [
            ("00000000fffffff5000000036b6579", 1_476_017_569, 80),
            ("00000000fffffff900000001", 768_969_306, 31),
            ("00000000fffffff63ff0000000000000", -302_536_677, 136),
            ("00000000ffffff7e000000077b2261223a317d", 1_343_167_611, 13),
            ("00000000fffffff500000000", 923_237_662, 11),
        ] {
            let data = of_hex(sent);
            assert_eq!(data.as_ref().partition_hash(), hash, "{sent}");
            assert_eq!(data.as_ref().partition(271), PartitionId(partition), "{sent}");
        }
    }

    #[test]
    fn a_hash_that_a_client_chose_counts_and_the_lowest_number_is_partition_0() {
        let with = |hash| DataRef::new(TypeId::STRING, hash, b"anything").partition(271);
        assert_eq!(
            (with(-273), with(273), with(271)),
            (PartitionId(2), PartitionId(2), PartitionId(0))
        );
        assert_eq!(with(i32::MIN), PartitionId(0));
    }
}
