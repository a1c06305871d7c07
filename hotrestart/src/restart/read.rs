//! Reading chunks: whole, direct, the next one under way while the last is being applied.

use crate::error::OpenError;
use crate::io::{AlignedBuf, Completion, Disk, IoError, Op, OpenMode, Queue};

/// A reader with buffers of its own; it belongs to one thread.
pub(crate) struct ChunkReader<'a> {
    disk: &'a dyn Disk,
    queue: Box<dyn Queue>,
    free: Vec<AlignedBuf>,
    completions: Vec<Completion>,
}

impl<'a> ChunkReader<'a> {
    /// A reader with `buffers` buffers of `len` bytes.
    pub(crate) fn new(
        disk: &'a dyn Disk,
        len: usize,
        buffers: usize,
    ) -> Result<ChunkReader<'a>, IoError> {
        Ok(ChunkReader {
            disk,
            queue: disk.queue(buffers as u32)?,
            free: (0..buffers).map(|_| AlignedBuf::zeroed(len)).collect(),
            completions: Vec::new(),
        })
    }

    /// Starts to read the first `len` bytes of a file. There must be a free buffer.
    fn start(&mut self, token: u64, name: &str, len: usize) -> Result<(), IoError> {
        let file = self.disk.open(name, OpenMode::Read)?;
        let buf = self.free.pop().expect("a reader starts no more reads than it has buffers");
        self.queue.submit(token, Op::Read { file, offset: 0, buf: buf.into(), len });
        Ok(())
    }

    /// The next read that ends: its token and bytes. The buffer goes back by `give`.
    fn finish(&mut self) -> Result<(u64, AlignedBuf), IoError> {
        loop {
            if let Some(completion) = self.completions.pop() {
                let buf = completion.buf.and_then(crate::io::IoBuf::into_aligned);
                let buf = buf.expect("a read gives its buffer back");
                if let Err(error) = completion.result {
                    self.free.push(buf);
                    return Err(error);
                }
                return Ok((completion.token, buf));
            }
            self.queue.wait(None, &mut self.completions)?;
        }
    }

    /// Reads the front of one file.
    pub(crate) fn read_one(&mut self, name: &str, len: usize) -> Result<Vec<u8>, IoError> {
        self.start(0, name, len)?;
        let (_, buf) = self.finish()?;
        let bytes = buf[..len].to_vec();
        self.free.push(buf);
        Ok(bytes)
    }

    /// Reads the files that `next` names, `len` bytes each, one ahead, and calls `each` with the item and
    /// its bytes.
    pub(crate) fn read_all<T>(
        &mut self,
        len: usize,
        mut next: impl FnMut() -> Option<(T, String)>,
        mut each: impl FnMut(T, &[u8]) -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        let mut under_way: Vec<Option<T>> = Vec::new();
        loop {
            while !self.free.is_empty() {
                let Some((item, name)) = next() else { break };
                let place = under_way.iter().position(Option::is_none).unwrap_or(under_way.len());
                if place == under_way.len() {
                    under_way.push(None);
                }
                self.start(place as u64, &name, len)?;
                under_way[place] = Some(item);
            }
            if under_way.iter().all(Option::is_none) {
                return Ok(());
            }
            let (token, buf) = self.finish()?;
            let item = under_way[token as usize].take();
            let done = item.map_or(Ok(()), |item| each(item, &buf[..len]));
            self.free.push(buf);
            done?;
        }
    }
}

/// Flushes files: what an earlier process wrote to them and never flushed becomes durable.
pub(crate) fn flush_all(disk: &dyn Disk, names: &[String]) -> Result<(), IoError> {
    const DEPTH: usize = 32;
    if names.is_empty() {
        return Ok(());
    }
    let mut queue = disk.queue(DEPTH as u32)?;
    let mut completions = Vec::new();
    let mut names = names.iter();
    loop {
        while queue.in_flight() < DEPTH
            && let Some(name) = names.next()
        {
            queue.submit(0, Op::Flush { file: disk.open(name, OpenMode::ReadWrite)? });
        }
        if queue.in_flight() == 0 {
            return Ok(());
        }
        queue.wait(None, &mut completions)?;
        completions.drain(..).try_for_each(|completion| completion.result.map(drop))?;
    }
}
