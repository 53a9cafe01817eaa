use super::*;
use crate::PackSlot;
use proptest::prelude::*;

/// One source for each page: what a page map must be equal to.
type Naive = BTreeMap<u64, PageSource>;

const SPACE: u64 = 200;

fn naive(map: &PageMap) -> Naive {
    let pages =
        |r: PageRun| (0..r.range.count).map(move |i| (r.range.first.0 + i, r.source.advanced(i)));
    map.runs().flat_map(pages).collect()
}

fn lay(naive: &mut Naive, r: &PageRun) {
    for i in 0..r.range.count {
        naive.insert(r.range.first.0 + i, r.source.advanced(i));
    }
}

fn assert_invariant(map: &PageMap) {
    let runs: Vec<PageRun> = map.runs().collect();
    for pair in runs.windows(2) {
        assert!(pair[0].range.end() <= pair[1].range.first, "{pair:?}");
        assert!(!pair[0].is_continued_by(&pair[1]), "{pair:?}");
    }
    assert!(runs.iter().all(PageRun::is_valid));
}

fn any_range() -> impl Strategy<Value = PageRange> {
    (0..SPACE, 0u64..40).prop_map(|(first, count)| PageRange::new(PageNumber(first), count))
}

fn any_run() -> impl Strategy<Value = PageRun> {
    (0..SPACE, 1u64..=32, 0u32..3, 0u32..4, 0u8..32, any::<bool>()).prop_map(
        |(first, count, pack, frame, page, zero)| {
            let count = if zero { count } else { count.min(32 - u64::from(page)) };
            let range = PageRange::new(PageNumber(first), count);
            if zero {
                PageRun::zero(range)
            } else {
                PageRun::stored(range, FrameRef { pack: PackSlot(pack), frame }, page)
            }
        },
    )
}

fn any_map() -> impl Strategy<Value = PageMap> {
    prop::collection::vec(any_run(), 0..30).prop_map(|runs| runs.into_iter().collect())
}

#[derive(Debug, Clone)]
enum Step {
    Insert(PageRun),
    Remove(PageRange),
    Shift(PageRange, u64),
    Restrict(PageRange, u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any_run().prop_map(Step::Insert),
        2 => any_range().prop_map(Step::Remove),
        1 => (any_range(), 0..SPACE).prop_map(|(r, to)| Step::Shift(r, to)),
        1 => (any_range(), 0..40u64).prop_map(|(r, gap)| Step::Restrict(r, gap)),
    ]
}

fn in_range(range: PageRange, page: u64) -> bool {
    (range.first.0..range.end().0).contains(&page)
}

fn apply(map: &mut PageMap, model: &mut Naive, step: Step) {
    match step {
        Step::Insert(r) => {
            map.insert(r);
            lay(model, &r);
        }
        Step::Remove(range) => {
            map.remove(range);
            model.retain(|page, _| !in_range(range, *page));
        }
        Step::Shift(from, to) => {
            map.shift(from, PageNumber(to));
            let moved: Naive = model
                .iter()
                .filter(|(p, _)| in_range(from, **p))
                .map(|(p, s)| (p - from.first.0 + to, *s))
                .collect();
            let target = PageRange::new(PageNumber(to), from.count);
            model.retain(|p, _| !in_range(from, *p) && !in_range(target, *p));
            model.extend(moved);
        }
        Step::Restrict(range, gap) => {
            let second = PageRange::new(PageNumber(range.end().0 + gap), SPACE);
            *map = map.restricted_to(&[range, second]);
            model.retain(|p, _| in_range(range, *p) || in_range(second, *p));
        }
    }
}

proptest! {
    #[test]
    fn a_page_map_is_equal_to_a_naive_map_of_pages(
        steps in prop::collection::vec(any_step(), 0..60), window in any_range()
    ) {
        let (mut map, mut model) = (PageMap::new(), Naive::new());
        for step in steps {
            apply(&mut map, &mut model, step);
            assert_invariant(&map);
        }
        prop_assert_eq!(&naive(&map), &model);
        for page in 0..SPACE * 2 {
            prop_assert_eq!(map.lookup(PageNumber(page)), model.get(&page).copied());
        }
        let seen: PageMap = map.runs_within(window).collect();
        model.retain(|p, _| in_range(window, *p));
        prop_assert_eq!(naive(&seen), model);
    }

    #[test]
    fn an_overlay_wins_over_what_is_below(below in any_map(), above in any_map()) {
        let mut model = naive(&below);
        model.extend(naive(&above));
        let map = below.overlaid(&above);
        assert_invariant(&map);
        prop_assert_eq!(naive(&map), model);
    }

    #[test]
    fn a_map_reads_back_from_its_bytes(map in any_map()) {
        prop_assert_eq!(PageMap::decode(&map.encode().unwrap()), Ok(map));
    }

    #[test]
    fn usage_counts_every_stored_page(map in any_map()) {
        let mut usage = FrameUsage::default();
        map.count_usage(&mut usage);
        let live: u64 = usage.iter().map(|(_, n)| u64::from(n)).sum();
        prop_assert_eq!(live, map.pages() - map.zero_pages());
    }

    #[test]
    fn damaged_bytes_give_an_error_and_never_a_panic(
        map in any_map(), flips in prop::collection::vec((any::<usize>(), any::<u8>()), 1..8)
    ) {
        let columns = map.columns();
        let mut bad = columns.clone();
        for (at, with) in flips {
            let n = bad.len();
            bad[at % n] = with;
        }
        if let Ok(map) = decode_columns_of(&bad) {
            assert_invariant(&map);
        }
    }
}

fn decode_columns_of(columns: &[u8]) -> Result<PageMap, crate::ImageError> {
    let mut body = Vec::new();
    crate::cursor::put_varint(&mut body, columns.len() as u64);
    body.extend_from_slice(&crate::compress::compress("x", columns).unwrap());
    PageMap::decode(&crate::header::wrap(crate::header::Kind::PageMap, &body))
}

#[test]
fn dense_memory_of_a_gibibyte_is_a_few_kilobytes() {
    let mut builder = PageMapBuilder::new();
    for i in 0..8192u64 {
        let range = PageRange::new(PageNumber(0x7f0000 + i * 32), 32);
        let frame = FrameRef { pack: PackSlot(i as u32 / 300), frame: i as u32 % 300 };
        builder.push(PageRun::stored(range, frame, 0)).unwrap();
    }
    let map = builder.finish();
    let bytes = map.encode().unwrap();
    assert!(bytes.len() < 4096, "{}", bytes.len());
    assert_eq!(PageMap::decode(&bytes), Ok(map));
}

#[test]
fn a_builder_refuses_overlap_descent_and_runs_longer_than_their_frame() {
    let frame = FrameRef { pack: PackSlot(0), frame: 0 };
    let at = |first, count| PageRange::new(PageNumber(first), count);
    let mut builder = PageMapBuilder::new();
    builder.push(PageRun::zero(at(10, 5))).unwrap();
    for bad in [
        PageRun::zero(at(14, 1)),
        PageRun::zero(at(0, 1)),
        PageRun::zero(at(20, 0)),
        PageRun::stored(at(20, 33), frame, 0),
        PageRun::stored(at(20, 2), frame, 31),
        PageRun::zero(at(MAX_PAGE, 1)),
    ] {
        assert!(builder.push(bad).is_err(), "{bad:?}");
    }
}
