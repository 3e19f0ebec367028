//! Headers in every form that people and models write: lists, constants, odd characters.

use indexmap::IndexMap;

use super::super::plan::Argument;
use super::super::{Kernel, with_point};
use super::{VALID_HEADER, header_error, parse, plan_for_rows, task_files};
use crate::task::DType;

/// The arguments of the first launch of a header with this value of `args`, for 4 rows.
fn arguments(args: &str) -> Vec<Argument> {
    let kernel =
        parse(&VALID_HEADER.replace("x, factor, y, rows, i64(rows * columns), partial", args))
            .unwrap_or_else(|error| panic!("{args}: {error}"));
    plan_for_rows(&kernel, 4)
        .unwrap()
        .launches
        .remove(0)
        .arguments
}

#[test]
fn constants_and_casts_are_passed_as_arguments() {
    for (args, expected) in [
        (
            "1e-5, 1.0f, -2",
            vec![
                Argument::Float(1e-5),
                Argument::Float(1.0),
                Argument::Integer(-2),
            ],
        ),
        (
            "[true, false, nullptr]",
            vec![Argument::Integer(1), Argument::Integer(0), Argument::Null],
        ),
        (
            "[True, null, ~]",
            vec![Argument::Integer(1), Argument::Null, Argument::Null],
        ),
        ("1e-5", vec![Argument::Float(1e-5)]),
        ("true", vec![Argument::Integer(1)]),
        ("0x10", vec![Argument::Integer(16)]),
        (
            "f32(1e-5), (float)2, bf16(0.5), static_cast<double>(3), f32(rows * 2)",
            vec![
                Argument::Scalar(DType::Float32, 1e-5),
                Argument::Scalar(DType::Float32, 2.0),
                Argument::Scalar(DType::BFloat16, 0.5),
                Argument::Scalar(DType::Float64, 3.0),
                Argument::Scalar(DType::Float32, 8.0),
            ],
        ),
        (
            "rows * columns, (int)rows, int64_t(rows), ROWS, sm_count",
            vec![
                Argument::Integer(32),
                Argument::I32(4),
                Argument::I64(4),
                Argument::Integer(4),
                Argument::Integer(2),
            ],
        ),
        (
            "-INFINITY, FLT_MAX",
            vec![
                Argument::Float(f64::NEG_INFINITY),
                Argument::Float(f64::from(f32::MAX)),
            ],
        ),
        (
            "[\"x\", 'y']",
            vec![Argument::Buffer(0), Argument::Buffer(1)],
        ),
        ("", vec![]),
        ("x,", vec![Argument::Buffer(0)]),
    ] {
        assert_eq!(arguments(args), expected, "{args}");
    }
    for (args, message) in [
        (
            "1.0f / 3.0f",
            "is no name, constant or whole-number expression",
        ),
        ("f32(1 / rows)", "expected a number such as `0.125`"),
        ("i32(1.5)", "character 6: expected an operator, found `.`"),
        ("x[0]", "is no name, constant or whole-number expression"),
        ("x + 1", "the tensor `x` can only be passed whole"),
        ("i32(rows", "the parenthesis is not closed"),
        ("bool(rows)", "`bool(…)` takes `true` or `false`"),
        (
            "{a: x}",
            "`args`: expected a list, found keys with values (list the arguments in the order",
        ),
        (
            "[[x, y], rows]",
            "`args`: expected a single value (write it as `args: x, output",
        ),
    ] {
        let error = header_error(
            &VALID_HEADER.replace("x, factor, y, rows, i64(rows * columns), partial", args),
        );
        assert!(
            error.starts_with("line 7: ") && error.contains(message),
            "{args}: {error}"
        );
    }
}

#[test]
fn lists_of_every_form_give_the_same_plan() {
    let expected = plan_for_rows(&parse(VALID_HEADER).unwrap(), 9).unwrap();
    let launch = "launch:
  - kernel: scale<ROWS>
    grid: ceil_div(rows, ROWS), 2
    block: WIDTH
    shared: 4 * ROWS
    args: x, factor, y, rows, i64(rows * columns), partial";
    assert!(VALID_HEADER.starts_with(launch));
    for other in [
        "launch:
  - kernel: scale<ROWS>
    grid: [ceil_div(rows, ROWS), 2]
    block: [WIDTH, 1, 1]
    shared: [4 * ROWS]
    args: [x, factor, y, rows, i64(rows * columns), partial,]",
        "launch:
  - kernel: scale<ROWS>
    grid:
      - ceil_div(rows, ROWS)
      - 2
    block:
    - WIDTH
    shared: 4 * ROWS
    cooperative: no
    args:
      - x  # the input
      - factor
      - y

      - rows
      - i64(rows * columns)
      - partial",
        "launch:
  kernel: scale<ROWS>
  grid: {x: \"(rows + ROWS - 1) / ROWS\", y: 2}
  block: {x: WIDTH}
  shared: 4 * ROWS
  args: [
    x, factor, y,
    rows,
    i64(rows *
        columns), partial]",
        "launch:
\t- kernel: scale<ROWS>
\t\tgrid: dim3(ceil_div(rows, ROWS), 2)
\t\tblock:\t(WIDTH, 1, 1)
\t\tshared: 4 * ROWS
\t\targs: x, factor, y, rows,
\t\t\ti64(rows * columns), partial,",
        " * launch:
 *   - kernel: \u{201c}scale<ROWS>\u{201d}
 *     grid: ceil_div(rows,\u{a0}ROWS), 2
 *     block: 64 \u{2013} 32
 *     shared: 4 \u{d7} ROWS
 *     args: x, factor, y, rows, i64(rows * columns), partial",
    ] {
        let rest = VALID_HEADER.strip_prefix(launch).unwrap();
        let rest = if other.starts_with(" *") {
            rest.replace('\n', "\n * ")
        } else {
            rest.to_owned()
        };
        let kernel = parse(&format!("{other}{rest}"));
        if other.contains("shared: [") {
            // A size is no list.
            assert!(
                kernel
                    .unwrap_err()
                    .to_string()
                    .contains("`shared`: expected a single value")
            );
            continue;
        }
        let kernel = kernel.unwrap_or_else(|error| panic!("{other}: {error}"));
        assert_eq!(plan_for_rows(&kernel, 9).unwrap(), expected, "{other}");
        let windows = kernel.text.replace('\n', "\r\n");
        let task = task_files().load().unwrap();
        let kernel = Kernel::parse(&windows, &task.definition).unwrap();
        assert_eq!(
            plan_for_rows(&kernel, 9).unwrap(),
            expected,
            "CRLF: {other}"
        );
    }
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let task = task_files().load().unwrap();
    let text = parse(VALID_HEADER).unwrap().text;
    let marked = Kernel::parse(&format!("\u{feff}{text}"), &task.definition).unwrap();
    assert_eq!(marked.text, text);
    assert_eq!(
        marked.header,
        Kernel::parse(&text, &task.definition).unwrap().header
    );
    let spaced = Kernel::parse(&format!("\u{feff}\n\n{text}"), &task.definition).unwrap();
    assert_eq!(
        spaced.header.launches[0].line,
        marked.header.launches[0].line + 2
    );
}

#[test]
fn a_value_listed_twice_counts_once_and_is_noted() {
    let kernel = parse(&VALID_HEADER.replace("[4, 1, 2]", "[4, 1, 4, 2]")).unwrap();
    assert_eq!(kernel.header.tunables["ROWS"], [4, 1, 2]);
    assert_eq!(
        kernel.header.notes,
        ["line 9: tunable `ROWS` lists `4` more than once; each value is used once"]
    );
    let moved = with_point(&kernel, &IndexMap::from([("ROWS".to_owned(), 2)])).unwrap();
    assert!(moved.contains("ROWS: [2, 1, 4]\n"), "{moved}");
}

#[test]
fn with_point_rewrites_lists_of_every_form() {
    for list in [
        "[4, 1, 2]",
        "[4, 1,\n    2]",
        "[\n    4, # four\n    1, 2,\n  ]",
        "\n    - 4\n    - 1  # one\n    - 2",
        "\n  - 4\n  - 1\n  - 2",
        "4, 1, 2",
        "4|1|2  # choices",
        "\"4, 1, 2\"",
        "[4.0, \"1\", 0x2]",
        "[4, 1, 2, 2]",
    ] {
        let kernel = parse(&VALID_HEADER.replace("[4, 1, 2]", list)).unwrap();
        assert_eq!(kernel.header.tunables["ROWS"], [4, 1, 2], "{list}");
        let point = IndexMap::from([("ROWS".to_owned(), 2), ("WIDTH".to_owned(), 64)]);
        let moved = with_point(&kernel, &point).unwrap_or_else(|| panic!("{list}"));
        let task = task_files().load().unwrap();
        let moved = Kernel::parse(&moved, &task.definition)
            .unwrap_or_else(|error| panic!("{list}: {error}"));
        assert_eq!(
            (moved.point(), moved.space()),
            (point, kernel.space()),
            "{list}"
        );
        assert_eq!(moved.family(), kernel.family(), "{list}");
        assert_eq!(moved.header.variants, kernel.header.variants, "{list}");
    }
    let single = parse(&VALID_HEADER.replace("[32, 64]", "32 # fixed")).unwrap();
    assert_eq!(single.header.tunables["WIDTH"], [32]);
    let flow = VALID_HEADER.replace(
        "tunables:\n  ROWS: [4, 1, 2]\n  WIDTH: [32, 64]",
        "tunables: {ROWS: [4, 1, 2], WIDTH: 32}",
    );
    let kernel = parse(&flow).unwrap();
    let moved = with_point(
        &kernel,
        &IndexMap::from([("ROWS".to_owned(), 2), ("WIDTH".to_owned(), 32)]),
    )
    .unwrap();
    assert!(
        moved.contains("tunables: {ROWS: [2, 1, 4], WIDTH: [32]}"),
        "{moved}"
    );
}

/// Damages headers at random. `KFORGE_TEST_HEADERS` sets the number of damaged headers.
#[test]
fn damaged_headers_are_read_or_refused_with_a_line() {
    let count = std::env::var("KFORGE_TEST_HEADERS").map_or(500, |count| count.parse().unwrap());
    let task = task_files().load().unwrap();
    let block = VALID_HEADER
        .replace("[4, 1, 2]", "\n  - 4 # four\n  - 1\n  - 2")
        .replace("WIDTH\n", "\n    - WIDTH\n    - 1\n")
        .replace("x, factor, y,", "[x, factor, 1e-5, true, y,")
        .replace("partial\n", "partial]\n");
    let sources = [VALID_HEADER, &block].map(|yaml| parse(yaml).unwrap().text);
    let pieces = [
        "", " ", "\n", "\t", "[", "]", "{", "}", ",", ":", "- ", "#", "\"", "'", "|", "&a ", "*a",
        "(", ")", "é", "\u{feff}", "\r\n", "*", "\n * ", "  ", "1e5", "null", "x", "ROWS", "0x",
        "-", "*/",
    ];
    let mut random = crate::base::RandomStream::new(7, "headers", 0);
    let mut readable = 0;
    for _ in 0..count {
        let mut text: Vec<char> = sources[random.below(2)].chars().collect();
        for _ in 0..=random.below(3) {
            let at = random.below(text.len());
            let end = (at + random.below(4)).min(text.len());
            let piece = pieces[random.below(pieces.len())];
            text.splice(at..end, piece.chars());
        }
        let text: String = text.into_iter().collect();
        let lines = text.lines().count() as u32;
        let kernel = match Kernel::parse(&text, &task.definition) {
            Ok(kernel) => kernel,
            Err(error) => {
                assert!((1..=lines.max(1)).contains(&error.line), "{error}\n{text}");
                assert!(
                    !error.message.is_empty() && !error.message.contains('\n'),
                    "{error:?}"
                );
                continue;
            }
        };
        readable += 1;
        for (name, values) in kernel.space() {
            for value in values {
                let mut point = kernel.point();
                point.insert(name.clone(), value);
                let Some(moved) = with_point(&kernel, &point) else {
                    continue;
                };
                let again = Kernel::parse(&moved, &task.definition)
                    .unwrap_or_else(|error| panic!("{error}\n{text}\n{moved}"));
                assert_eq!(
                    (again.point(), again.space()),
                    (point, kernel.space()),
                    "{moved}"
                );
                assert_eq!(again.header.launches, kernel.header.launches, "{moved}");
                assert_eq!(again.family(), kernel.family(), "{text}\n{moved}");
            }
        }
    }
    assert!(readable > count / 40, "{readable} of {count}");
}
