//! The type ids of Hazelcast's serialisation that this program writes or looks into.

use std::fmt;

/// What a payload is. Negative ids are Hazelcast's own, positive ones those of users' serialisers.
///
/// Only those that are written or read here have a name; all others are kept and given back as they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TypeId(pub i32);

impl TypeId {
    /// Nothing: neither a key nor a value.
    pub const NULL: TypeId = TypeId(0);
    /// A byte.
    pub const BYTE: TypeId = TypeId(-3);
    /// A byte, 0 or 1.
    pub const BOOLEAN: TypeId = TypeId(-4);
    /// A UTF-16 code unit, 2 bytes.
    pub const CHAR: TypeId = TypeId(-5);
    /// 2 bytes.
    pub const SHORT: TypeId = TypeId(-6);
    /// 4 bytes.
    pub const INTEGER: TypeId = TypeId(-7);
    /// 8 bytes.
    pub const LONG: TypeId = TypeId(-8);
    /// IEEE 754, 4 bytes.
    pub const FLOAT: TypeId = TypeId(-9);
    /// IEEE 754, 8 bytes.
    pub const DOUBLE: TypeId = TypeId(-10);
    /// A length of 4 bytes, then UTF-8.
    pub const STRING: TypeId = TypeId(-11);
    /// A count of 4 bytes, then as many bytes.
    pub const BYTE_ARRAY: TypeId = TypeId(-12);
    /// A length of 4 bytes, then two's complement, big-endian and as short as possible.
    pub const BIG_INTEGER: TypeId = TypeId(-26);
    /// JSON text, as a string.
    pub const JSON: TypeId = TypeId(-130);
    /// This program's: a value of any type of Rust, by `serde` and postcard.
    pub const POSTCARD: TypeId = TypeId(2001);
    /// This program's: plain data as it lies in memory.
    pub const PLAIN_DATA: TypeId = TypeId(2002);
}

impl fmt::Display for TypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            TypeId::NULL => "null",
            TypeId::BYTE => "byte",
            TypeId::BOOLEAN => "boolean",
            TypeId::CHAR => "char",
            TypeId::SHORT => "short",
            TypeId::INTEGER => "int",
            TypeId::LONG => "long",
            TypeId::FLOAT => "float",
            TypeId::DOUBLE => "double",
            TypeId::STRING => "string",
            TypeId::BYTE_ARRAY => "byte array",
            TypeId::BIG_INTEGER => "big integer",
            TypeId::JSON => "JSON",
            TypeId::POSTCARD => "postcard",
            TypeId::PLAIN_DATA => "plain data",
            TypeId(other) => return write!(f, "{other}"),
        };
        write!(f, "{} ({name})", self.0)
    }
}
