//! Programs of classic BPF, as seccomp runs them: what they can answer to a system call of which only the number and the
//! architecture are known.
//!
//! Owns decoding with the kernel's own checks (`bpf_check_classic`, `seccomp_check_filter`; [`Program::parse`]) and an
//! interpreter over values that may be unknown ([`Program::laxest`]). A branch on an unknown value is taken both ways;
//! ways that meet go on as one, with what they agree in. So a program costs at most its length, and the answer is never
//! stricter than what the kernel could come to.

mod decode;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

/// Cells of a program's scratch memory.
const CELLS: usize = 16;
/// Size of `struct seccomp_data`, which programs read as words.
const DATA_SIZE: u32 = 64;
/// Where its number and its architecture stand.
const NR: u32 = 0;
const ARCH: u32 = 4;

/// What a filter answers, without its data. In the kernel's order: of several filters the least answer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Action(i32);

/// `<linux/seccomp.h>`, those that are told apart here. For values that the kernel does not know it kills.
impl Action {
    pub(super) const KILL_THREAD: Self = Self(0);
    pub(super) const ERRNO: Self = Self(0x0005_0000);
    pub(super) const USER_NOTIF: Self = Self(0x7fc0_0000);
    pub(super) const TRACE: Self = Self(0x7ff0_0000);
    pub(super) const LOG: Self = Self(0x7ffc_0000);
    pub(super) const ALLOW: Self = Self(0x7fff_0000);

    /// The action in a returned value.
    const fn of(returned: u32) -> Self {
        Self((returned & 0xffff_0000).cast_signed())
    }
}

/// A word, if it is known.
type Value = Option<u32>;

/// What a program is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    /// `AUDIT_ARCH_…`
    pub(super) arch: u32,
    /// The number of the system call; `None`: any.
    pub(super) nr: Value,
}

/// How many more instructions may be interpreted. Shared by all programs of a checkpoint: a hostile one can bring many.
#[derive(Debug)]
pub(super) struct Steps(pub(super) u64);

/// A program that the kernel would take.
#[derive(Debug)]
pub(super) struct Program(Vec<Op>);

#[derive(Debug, Clone, Copy)]
enum Op {
    Load(Register, Source),
    Store(Register, usize),
    Arithmetic(Arithmetic, Operand),
    Negate,
    /// Into the register, from the other one.
    Copy(Register),
    Jump(usize),
    Branch(Test, Operand, usize, usize),
    Return(Operand),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Register {
    A,
    X,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    Data(u32),
    Constant(u32),
    Cell(usize),
}

#[derive(Debug, Clone, Copy)]
enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    Or,
    And,
    Xor,
    ShiftLeft,
    ShiftRight,
}

#[derive(Debug, Clone, Copy)]
enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
    AnyBit,
}

#[derive(Debug, Clone, Copy)]
enum Operand {
    Constant(u32),
    Register(Register),
}

impl Program {
    /// How many instructions.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The laxest action that the program can come to, whatever the call's arguments are; all that kill are one. `None`:
    /// the steps are used up.
    pub(super) fn laxest(&self, call: Call, steps: &mut Steps) -> Option<Action> {
        // Any program may be ended by a division by an unknown zero, which is this.
        let mut laxest = Action::KILL_THREAD;
        let mut waiting = BTreeMap::from([(0, State::START)]);
        // Jumps go forward only: when the first of those that wait is taken, every way to it has been gone.
        while let Some((mut at, mut state)) = waiting.pop_first() {
            loop {
                steps.0 = steps.0.checked_sub(1)?;
                // The check left no way beyond the end.
                let Some(op) = self.0.get(at) else { return Some(Action::ALLOW) };
                let next = match state.step(*op, call) {
                    Next::Return(value) => {
                        laxest = laxest.max(value.map_or(Action::ALLOW, Action::of));
                        break;
                    }
                    Next::Skip(skip) => at + 1 + skip,
                    Next::Either(one, other) => {
                        join(&mut waiting, at + 1 + one, &state);
                        at + 1 + other
                    }
                };
                if !waiting.is_empty() {
                    join(&mut waiting, next, &state);
                    break;
                }
                at = next;
            }
        }
        Some(laxest)
    }
}

fn join(waiting: &mut BTreeMap<usize, State>, at: usize, state: &State) {
    waiting.entry(at).and_modify(|there| there.join(state)).or_insert_with(|| state.clone());
}

/// Where to go after an instruction.
enum Next {
    Skip(usize),
    Either(usize, usize),
    Return(Value),
}

/// What is known at an instruction, on every way to it.
#[derive(Debug, Clone)]
struct State {
    a: Value,
    x: Value,
    cells: [Value; CELLS],
}

impl State {
    /// The kernel clears both registers; cells are written before they are read.
    const START: Self = Self { a: Some(0), x: Some(0), cells: [None; CELLS] };

    fn join(&mut self, other: &Self) {
        let agree = |a: &mut Value, b: Value| *a = a.filter(|_| *a == b);
        agree(&mut self.a, other.a);
        agree(&mut self.x, other.x);
        self.cells.iter_mut().zip(other.cells).for_each(|(a, b)| agree(a, b));
    }

    fn register(&mut self, register: Register) -> &mut Value {
        match register {
            Register::A => &mut self.a,
            Register::X => &mut self.x,
        }
    }

    fn operand(&self, operand: Operand) -> Value {
        match operand {
            Operand::Constant(k) => Some(k),
            Operand::Register(Register::A) => self.a,
            Operand::Register(Register::X) => self.x,
        }
    }

    fn load(&self, source: Source, call: Call) -> Value {
        match source {
            Source::Data(NR) => call.nr,
            Source::Data(ARCH) => Some(call.arch),
            Source::Data(_) => None,
            Source::Constant(k) => Some(k),
            Source::Cell(cell) => self.cells.get(cell).copied().flatten(),
        }
    }

    fn step(&mut self, op: Op, call: Call) -> Next {
        match op {
            Op::Load(register, source) => *self.register(register) = self.load(source, call),
            Op::Store(register, cell) => {
                let value = *self.register(register);
                self.cells.get_mut(cell).into_iter().for_each(|cell| *cell = value);
            }
            Op::Arithmetic(Arithmetic::Div, by) if self.operand(by) == Some(0) => {
                // The kernel ends the program: as if it had returned 0.
                return Next::Return(Some(0));
            }
            Op::Arithmetic(arithmetic, by) => {
                let both = self.a.zip(self.operand(by));
                self.a = both.and_then(|(a, by)| arithmetic.of(a, by));
            }
            Op::Negate => self.a = self.a.map(u32::wrapping_neg),
            Op::Copy(Register::A) => self.a = self.x,
            Op::Copy(Register::X) => self.x = self.a,
            Op::Jump(skip) => return Next::Skip(skip),
            Op::Branch(test, with, yes, no) => {
                return match self.a.zip(self.operand(with)) {
                    Some((a, with)) => Next::Skip(if test.holds(a, with) { yes } else { no }),
                    None => Next::Either(yes, no),
                };
            }
            Op::Return(operand) => return Next::Return(self.operand(operand)),
        }
        Next::Skip(0)
    }
}

impl Arithmetic {
    /// `None` where kernels differ: shifts by as much as a word has bits.
    fn of(self, a: u32, by: u32) -> Value {
        match self {
            Self::Add => Some(a.wrapping_add(by)),
            Self::Sub => Some(a.wrapping_sub(by)),
            Self::Mul => Some(a.wrapping_mul(by)),
            Self::Div => a.checked_div(by),
            Self::Or => Some(a | by),
            Self::And => Some(a & by),
            Self::Xor => Some(a ^ by),
            Self::ShiftLeft => a.checked_shl(by),
            Self::ShiftRight => a.checked_shr(by),
        }
    }
}

impl Test {
    fn holds(self, a: u32, with: u32) -> bool {
        match self {
            Self::Equal => a == with,
            Self::Greater => a > with,
            Self::GreaterOrEqual => a >= with,
            Self::AnyBit => a & with != 0,
        }
    }
}
