//! Little-endian numbers at fixed places of a byte slice.
//!
//! Invariant: the caller has checked that the slice holds the field; these functions index and would panic.
//! Only the files of this module call them, each behind its own length check.

#[inline]
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let mut raw = [0; 2];
    raw.copy_from_slice(&bytes[at..at + 2]);
    u16::from_le_bytes(raw)
}

#[inline]
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

#[inline]
pub(super) fn u48_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw[..6].copy_from_slice(&bytes[at..at + 6]);
    u64::from_le_bytes(raw)
}

#[inline]
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

#[inline]
pub(super) fn id_at(bytes: &[u8], at: usize) -> [u8; 16] {
    let mut raw = [0; 16];
    raw.copy_from_slice(&bytes[at..at + 16]);
    raw
}

#[inline]
pub(super) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

#[inline]
pub(super) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    put(bytes, at, &value.to_le_bytes());
}

#[inline]
pub(super) fn put_u48(bytes: &mut [u8], at: usize, value: u64) {
    put(bytes, at, &value.to_le_bytes()[..6]);
}

#[inline]
pub(super) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    put(bytes, at, &value.to_le_bytes());
}
