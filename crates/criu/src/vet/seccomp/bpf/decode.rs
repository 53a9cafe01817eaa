//! From bytes to a program: what the kernel's checks let through, and nothing else.

use super::{Arithmetic, CELLS, DATA_SIZE, Op, Operand, Program, Register, Source, Test};

/// `BPF_MAXINSNS`
const MAX_INSTRUCTIONS: usize = 4096;
/// Size of `struct sock_filter`: code, two jumps, an operand, in the machine's order. Both of our machines' are little-endian.
const INSTRUCTION: usize = 8;

impl Program {
    /// Reads an array of `struct sock_filter`.
    ///
    /// # Errors
    /// What the kernel would refuse it for.
    pub(in super::super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let (instructions, rest) = bytes.as_chunks::<INSTRUCTION>();
        if !rest.is_empty() {
            return Err("it ends within an instruction");
        }
        if instructions.is_empty() || instructions.len() > MAX_INSTRUCTIONS {
            return Err("it has no instruction, or more than 4096");
        }
        let ops: Vec<Op> = instructions.iter().map(op).collect::<Result<_, _>>()?;
        if !matches!(ops.last(), Some(Op::Return(_))) {
            return Err("it does not end by returning");
        }
        check_ways(&ops)?;
        Ok(Self(ops))
    }
}

/// One instruction. Codes are those of `<linux/filter.h>` which `seccomp_check_filter` takes.
fn op(&[c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; INSTRUCTION]) -> Result<Op, &'static str> {
    let code = u16::from_le_bytes([c0, c1]);
    let k = u32::from_le_bytes([k0, k1, k2, k3]);
    let by = match code & 0x08 {
        0 => Operand::Constant(k),
        _ => Operand::Register(Register::X),
    };
    let branch = |test| Op::Branch(test, by, jt.into(), jf.into());
    Ok(match code {
        0x00 => Op::Load(Register::A, Source::Constant(k)),
        0x01 => Op::Load(Register::X, Source::Constant(k)),
        0x20 => Op::Load(Register::A, Source::Data(word(k)?)),
        0x60 => Op::Load(Register::A, Source::Cell(cell(k)?)),
        0x61 => Op::Load(Register::X, Source::Cell(cell(k)?)),
        // The length of what is looked at.
        0x80 => Op::Load(Register::A, Source::Constant(DATA_SIZE)),
        0x81 => Op::Load(Register::X, Source::Constant(DATA_SIZE)),
        0x02 => Op::Store(Register::A, cell(k)?),
        0x03 => Op::Store(Register::X, cell(k)?),
        0x04 | 0x0c => Op::Arithmetic(Arithmetic::Add, by),
        0x14 | 0x1c => Op::Arithmetic(Arithmetic::Sub, by),
        0x24 | 0x2c => Op::Arithmetic(Arithmetic::Mul, by),
        0x34 if k == 0 => return Err("it divides by zero"),
        0x34 | 0x3c => Op::Arithmetic(Arithmetic::Div, by),
        0x44 | 0x4c => Op::Arithmetic(Arithmetic::Or, by),
        0x54 | 0x5c => Op::Arithmetic(Arithmetic::And, by),
        0xa4 | 0xac => Op::Arithmetic(Arithmetic::Xor, by),
        0x64 | 0x74 if k >= u32::BITS => return Err("it shifts by more than a word"),
        0x64 | 0x6c => Op::Arithmetic(Arithmetic::ShiftLeft, by),
        0x74 | 0x7c => Op::Arithmetic(Arithmetic::ShiftRight, by),
        0x84 => Op::Negate,
        0x07 => Op::Copy(Register::X),
        0x87 => Op::Copy(Register::A),
        0x05 => Op::Jump(usize::try_from(k).map_err(|_| OUTSIDE)?),
        0x15 | 0x1d => branch(Test::Equal),
        0x25 | 0x2d => branch(Test::Greater),
        0x35 | 0x3d => branch(Test::GreaterOrEqual),
        0x45 | 0x4d => branch(Test::AnyBit),
        0x06 => Op::Return(Operand::Constant(k)),
        0x16 => Op::Return(Operand::Register(Register::A)),
        _ => return Err("it has an instruction that no filter may have"),
    })
}

const OUTSIDE: &str = "it jumps beyond its end";

/// An offset in `struct seccomp_data`.
fn word(k: u32) -> Result<u32, &'static str> {
    let inside = k < DATA_SIZE && k.is_multiple_of(4);
    if inside { Ok(k) } else { Err("it reads outside of the system call") }
}

fn cell(k: u32) -> Result<usize, &'static str> {
    let cell = usize::try_from(k).ok().filter(|cell| *cell < CELLS);
    cell.ok_or("it has no such memory")
}

/// `bpf_check_classic` and its `check_load_and_stores`: jumps stay inside, and no memory is read before it is written,
/// on no way, taken or not.
fn check_ways(ops: &[Op]) -> Result<(), &'static str> {
    const ALL: u16 = u16::MAX;
    // What has been written when an instruction is reached, one bit for each cell.
    let mut written = vec![ALL; ops.len()];
    let mut now = 0;
    for (at, op) in ops.iter().enumerate() {
        now &= written.get(at).copied().unwrap_or(0);
        let mut reach = |skip: usize| {
            let there = at.checked_add(1).and_then(|next| next.checked_add(skip));
            let there = there.and_then(|there| written.get_mut(there)).ok_or(OUTSIDE)?;
            *there &= now;
            Ok::<(), &'static str>(())
        };
        match *op {
            Op::Store(_, cell) => now |= 1 << cell,
            Op::Load(_, Source::Cell(cell)) if now & (1 << cell) == 0 => {
                return Err("it reads memory that it has not written");
            }
            Op::Jump(skip) => {
                reach(skip)?;
                now = ALL;
            }
            Op::Branch(_, _, yes, no) => {
                reach(yes)?;
                reach(no)?;
                now = ALL;
            }
            _ => {}
        }
    }
    Ok(())
}
