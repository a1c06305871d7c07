//! Little-endian numbers at fixed places of a byte slice.
//!
//! Invariant: the caller has checked that the slice holds the field; these functions index and would panic.
//! Only the files of this module call them, each behind its own length check. Each is one load or store.

#[inline(always)]
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("the caller has checked the length")
}

#[inline(always)]
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

#[inline(always)]
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

#[inline(always)]
pub(super) fn u48_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u16_at(bytes, at + 4)) << 32
}

#[inline(always)]
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[inline(always)]
pub(super) fn id_at(bytes: &[u8], at: usize) -> [u8; 16] {
    array_at(bytes, at)
}

/// Writes a field of any length.
#[inline(always)]
pub(super) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

#[inline(always)]
fn put_array<const N: usize>(bytes: &mut [u8], at: usize, field: [u8; N]) {
    *bytes[at..].first_chunk_mut().expect("the caller has checked the length") = field;
}

#[inline(always)]
pub(super) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    put_array(bytes, at, value.to_le_bytes());
}

#[inline(always)]
pub(super) fn put_u48(bytes: &mut [u8], at: usize, value: u64) {
    put_u32(bytes, at, value as u32);
    put_array(bytes, at + 4, ((value >> 32) as u16).to_le_bytes());
}

#[inline(always)]
pub(super) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    put_array(bytes, at, value.to_le_bytes());
}
