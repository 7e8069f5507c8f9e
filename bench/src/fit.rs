//! A straight line through a few points.

/// `y = intercept + slope * x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// What each x adds.
    pub slope: f64,
    /// What is there at x = 0.
    pub intercept: f64,
}

impl Line {
    /// The least-squares line; `None` for fewer than two different x.
    pub fn through(points: &[(f64, f64)]) -> Option<Self> {
        let mut count = 0.0;
        let (mut sum_x, mut sum_y) = (0.0, 0.0);
        for (x, y) in points {
            count += 1.0;
            sum_x += x;
            sum_y += y;
        }
        let (mean_x, mean_y) = (sum_x / count, sum_y / count);
        let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
        if points.len() < 2 || spread <= 0.0 {
            return None;
        }
        let slope = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / spread;
        Some(Self { slope, intercept: mean_y - slope * mean_x })
    }

    /// The line's y at `x`.
    pub fn at(&self, x: f64) -> f64 {
        self.slope.mul_add(x, self.intercept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_points_give_their_line() {
        let line = Line::through(&[(2000.0, 17.0e6), (8000.0, 41.0e6), (16000.0, 73.0e6)]).expect("a line");
        assert!((line.slope - 4000.0).abs() < 1e-6);
        assert!((line.intercept - 9.0e6).abs() < 1e-3);
        assert!((line.at(100_000.0) - 409.0e6).abs() < 1e-3);
    }

    #[test]
    fn noise_is_averaged() {
        let line = Line::through(&[(0.0, 1.0), (1.0, 0.0), (2.0, 3.0), (3.0, 2.0)]).expect("a line");
        assert!((line.slope - 0.6).abs() < 1e-9);
    }

    #[test]
    fn one_point_is_no_line() {
        assert_eq!(Line::through(&[]), None);
        assert_eq!(Line::through(&[(1.0, 1.0), (1.0, 2.0)]), None);
    }
}
