//! The `grpc-timeout` header: at most 8 digits and a unit, as in
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tonic::Status;

const NAME: &str = "grpc-timeout";
const DIGITS_MAX: usize = 8;
const VALUE_MAX: u128 = 99_999_999;

/// Each unit's length in nanoseconds, the finest first.
const UNITS: [(char, u128); 6] = [
    ('n', 1),
    ('u', 1_000),
    ('m', 1_000_000),
    ('S', 1_000_000_000),
    ('M', 60 * 1_000_000_000),
    ('H', 3_600 * 1_000_000_000),
];

/// The timeout in `headers`, if there is one.
///
/// # Errors
/// `InvalidArgument` if it is malformed, or there are several.
pub(crate) fn read(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let mut values = headers.get_all(NAME).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let timeout = value.to_str().ok().and_then(parse);
    match (timeout, values.next()) {
        (Some(timeout), None) => Ok(Some(timeout)),
        (None, _) => Err(Status::invalid_argument(format!(
            "malformed {NAME}: {value:?} is not 1 to {DIGITS_MAX} digits and one of H, M, S, m, u, n"
        ))),
        (_, Some(_)) => Err(Status::invalid_argument(format!("more than one {NAME}"))),
    }
}

/// Replaces what timeout `headers` had.
pub(crate) fn write(headers: &mut HeaderMap, timeout: Duration) {
    let value = HeaderValue::try_from(format(timeout));
    // Digits and a letter are always a header value.
    headers.insert(NAME, value.unwrap_or(HeaderValue::from_static("0n")));
}

fn parse(text: &str) -> Option<Duration> {
    let (at, unit) = text.char_indices().last()?;
    let digits = &text[..at];
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        'n' => Duration::from_nanos(value),
        'u' => Duration::from_micros(value),
        'm' => Duration::from_millis(value),
        'S' => Duration::from_secs(value),
        'M' => Duration::from_secs(value * 60),
        'H' => Duration::from_secs(value * 3_600),
        _ => return None,
    })
}

/// In the finest unit that fits. Rounded down, so that no hop's deadline is later than the one it came from.
fn format(timeout: Duration) -> String {
    let nanos = timeout.as_nanos();
    for (unit, length) in UNITS {
        let value = nanos / length;
        if value <= VALUE_MAX {
            return format!("{value}{unit}");
        }
    }
    format!("{VALUE_MAX}H")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;

    use super::{NAME, format, parse, read, write};

    #[test]
    fn every_unit_is_read() {
        for (text, timeout) in [
            ("1n", Duration::from_nanos(1)),
            ("20u", Duration::from_micros(20)),
            ("300m", Duration::from_millis(300)),
            ("4000S", Duration::from_secs(4000)),
            ("2M", Duration::from_secs(120)),
            ("3H", Duration::from_secs(10_800)),
            ("0n", Duration::ZERO),
            ("99999999H", Duration::from_secs(359_999_996_400)),
        ] {
            assert_eq!(parse(text), Some(timeout), "{text:?}");
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let malformed: [&[u8]; 11] =
            [b"", b"S", b"1", b"1s", b"1 S", b" 1S", b"+1S", b"-1S", b"1.5S", b"123456789S", b"1\xc3\xa9"];
        for bytes in malformed {
            let value = HeaderValue::from_bytes(bytes).expect("a header may hold these bytes");
            let headers = HeaderMap::from_iter([(http::HeaderName::from_static(NAME), value)]);
            let refusal = read(&headers).expect_err("malformed");
            assert_eq!(refusal.code(), tonic::Code::InvalidArgument, "{bytes:?}");
        }
    }

    #[test]
    fn two_are_refused_and_none_is_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(read(&headers).expect("none is fine"), None);
        headers.append(NAME, HeaderValue::from_static("1S"));
        headers.append(NAME, HeaderValue::from_static("2S"));
        assert!(read(&headers).is_err());
        write(&mut headers, Duration::from_secs(3));
        assert_eq!(read(&headers).expect("replaced"), Some(Duration::from_secs(3)));
    }

    proptest! {
        /// Never longer than asked for, and shorter by no more than a unit that has 8 digits at hand.
        #[test]
        fn a_round_trip_rounds_down(secs in 0_u64..1 << 40, nanos in 0_u32..1_000_000_000) {
            let asked = Duration::new(secs, nanos);
            let text = format(asked);
            let got = parse(&text).expect("its own format");
            prop_assert!(text.len() <= 9);
            prop_assert!(got <= asked);
            if asked < Duration::from_secs(99_999_999 * 3_600) {
                prop_assert!(asked - got <= asked / 100_000, "{asked:?} became {text}");
            }
        }
    }
}
