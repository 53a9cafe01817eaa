//! The interpreter against one that knows everything and does one thing after the other.

use proptest::prelude::*;

use super::*;

/// What the kernel does with a program and a call. It is as dull as it can be, and reads bytes, not our instructions.
fn answer(program: &[u8], data: &[u32; 16]) -> Action {
    let (mut a, mut x, mut cells) = (0u32, 0u32, [0u32; 16]);
    let mut at = 0;
    loop {
        let bytes = &program[8 * at..8 * at + 8];
        let code = u16::from_le_bytes(bytes[..2].try_into().unwrap());
        let k = u32::from_le_bytes(bytes[4..].try_into().unwrap());
        let by = if code & 8 == 0 { k } else { x };
        let jump = |yes: bool| usize::from(bytes[if yes { 2 } else { 3 }]);
        let mut skip = 0;
        match code {
            0x00 => a = k,
            0x01 => x = k,
            0x20 => a = data[k as usize / 4],
            0x60 => a = cells[k as usize],
            0x61 => x = cells[k as usize],
            0x80 => a = 64,
            0x81 => x = 64,
            0x02 => cells[k as usize] = a,
            0x03 => cells[k as usize] = x,
            0x04 | 0x0c => a = a.wrapping_add(by),
            0x14 | 0x1c => a = a.wrapping_sub(by),
            0x24 | 0x2c => a = a.wrapping_mul(by),
            0x34 | 0x3c if by == 0 => return Action::of(0),
            0x34 | 0x3c => a /= by,
            0x44 | 0x4c => a |= by,
            0x54 | 0x5c => a &= by,
            0xa4 | 0xac => a ^= by,
            0x64 | 0x6c => a <<= by & 31,
            0x74 | 0x7c => a >>= by & 31,
            0x84 => a = a.wrapping_neg(),
            0x07 => x = a,
            0x87 => a = x,
            0x05 => skip = k as usize,
            0x15 | 0x1d => skip = jump(a == by),
            0x25 | 0x2d => skip = jump(a > by),
            0x35 | 0x3d => skip = jump(a >= by),
            0x45 | 0x4d => skip = jump(a & by != 0),
            0x06 => return Action::of(k),
            0x16 => return Action::of(a),
            _ => panic!("{code:#x}"),
        }
        at += 1 + skip;
    }
}

const CODES: [u16; 43] = [
    0x00, 0x01, 0x20, 0x20, 0x20, 0x60, 0x61, 0x80, 0x81, 0x02, 0x03, 0x04, 0x0c, 0x14, 0x1c, 0x24,
    0x2c, 0x34, 0x3c, 0x44, 0x4c, 0x54, 0x5c, 0xa4, 0xac, 0x64, 0x74, 0x84, 0x07, 0x87, 0x05, 0x15,
    0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d, 0x06, 0x06, 0x06, 0x16,
];

/// Words that programs and calls have in common now and then.
fn word() -> impl Strategy<Value = u32> {
    prop_oneof![
        0u32..8,
        any::<u32>(),
        prop::sample::select(vec![
            0xc000_003e,
            0x4000_0003,
            0x7fff_0000,
            0x7ffc_0000,
            0x7ff0_0000,
            0x7fc0_0000,
            0x0005_0001,
            0x0003_0000,
            0x8000_0000,
        ]),
    ]
}

/// A program that the kernel takes: it writes its memory first, jumps inside, and returns at its end. It shifts by what is
/// written in it only: kernels differ in shifts by too much.
fn program(reads: &'static [u32]) -> impl Strategy<Value = Vec<u8>> {
    let instruction = (prop::sample::select(CODES.to_vec()), any::<(u8, u8)>(), word());
    let body = prop::collection::vec(instruction, 0..60);
    (body, word()).prop_map(move |(body, last)| {
        let mut bytes: Vec<u8> = (0..16).flat_map(|cell| [2, 0, 0, 0, cell, 0, 0, 0]).collect();
        let len = body.len();
        for (at, (code, (jt, jf), k)) in body.into_iter().enumerate() {
            let left = (len - at).min(255);
            let inside = |jump: u8| (usize::from(jump) % left) as u8;
            let k = match code {
                0x20 => reads[k as usize % reads.len()],
                0x60 | 0x61 | 0x02 | 0x03 => k % 16,
                0x34 => k.max(1),
                0x64 | 0x74 => k % 32,
                0x05 => k % left as u32,
                _ => k,
            };
            bytes.extend(code.to_le_bytes());
            bytes.extend([inside(jt), inside(jf)]);
            bytes.extend(k.to_le_bytes());
        }
        bytes.extend([6, 0, 0, 0]);
        bytes.extend(last.to_le_bytes());
        bytes
    })
}

/// Offsets of everything in a call, and of what is known of it.
const ALL: &[u32] = &[0, 0, 0, 4, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60];
const KNOWN: &[u32] = &[0, 4];

fn laxest(program: &[u8], arch: u32, nr: Value) -> Action {
    let mut steps = Steps(1 << 13);
    let program = Program::parse(program).unwrap();
    // Each instruction is looked at once at most.
    let laxest = program.laxest(Call { arch, nr }, &mut steps).unwrap();
    assert!((1 << 13) - steps.0 <= program.len() as u64);
    laxest
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_call_is_answered_more_laxly_than_foreseen(
        program in program(ALL),
        calls in prop::collection::vec(prop::array::uniform16(word()), 1..20),
    ) {
        for mut call in calls.iter().copied() {
            let foreseen = laxest(&program, call[1], Some(call[0]));
            prop_assert!(answer(&program, &call) <= foreseen);
            let of_any = laxest(&program, call[1], None);
            prop_assert!(foreseen <= of_any);
            call[0] = calls[0][0];
            prop_assert!(answer(&program, &call) <= of_any);
        }
    }

    #[test]
    fn a_program_that_reads_no_arguments_is_foreseen_exactly(
        program in program(KNOWN),
        call in prop::array::uniform16(word()),
    ) {
        let answer = answer(&program, &call).max(Action::KILL_THREAD);
        prop_assert_eq!(answer, laxest(&program, call[1], Some(call[0])));
    }

    #[test]
    fn bytes_of_any_kind_are_a_program_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        nr in any::<Option<u32>>(),
    ) {
        if let Ok(program) = Program::parse(&bytes) {
            let mut steps = Steps(1 << 13);
            let call = Call { arch: 0xc000_003e, nr };
            prop_assert!(program.laxest(call, &mut steps).is_some());
        }
    }
}

#[test]
fn unknown_values_go_both_ways_and_meet_again() {
    let call = Call { arch: 1, nr: Some(7) };
    let laxest =
        |program: &[u8]| Program::parse(program).unwrap().laxest(call, &mut Steps(100)).unwrap();
    // An argument: 1 or not, then the number again, on both ways; it is 7.
    let met = [
        [0x20, 0, 0, 0, 16, 0, 0, 0],
        [0x15, 0, 1, 0, 1, 0, 0, 0],
        [0x20, 0, 0, 0, 0, 0, 0, 0],
        [0x20, 0, 0, 0, 0, 0, 0, 0],
        [0x15, 0, 0, 1, 7, 0, 0, 0],
        [6, 0, 0, 0, 0, 0, 5, 0],
        [6, 0, 0, 0, 0, 0, 0xff, 0x7f],
    ];
    assert_eq!(laxest(&met.concat()), Action::ERRNO);
    // Returns an argument.
    let returned = [[0x20, 0, 0, 0, 16, 0, 0, 0], [0x16, 0, 0, 0, 0, 0, 0, 0]];
    assert_eq!(laxest(&returned.concat()), Action::ALLOW);
    let program = Program::parse(&returned.concat()).unwrap();
    assert_eq!(program.laxest(call, &mut Steps(1)), None);
}
