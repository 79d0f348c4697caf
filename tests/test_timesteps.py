import pytest
import torch

from genmask.timesteps import LogitNormal, PowerLaw, RationalShift

DENSITIES = [
    LogitNormal(),
    LogitNormal(mean=1.1, std=0.7),
    PowerLaw(0.05),
    PowerLaw(0.5),
    RationalShift(0.1),
    RationalShift(3.0),
]


@pytest.mark.parametrize("density", DENSITIES, ids=repr)
def test_density_is_the_derivative_of_its_distribution(density):
    t = torch.linspace(0.05, 0.99, 50, dtype=torch.float64)
    h = 1e-6
    slope = (density.cdf(t + h) - density.cdf(t - h)) / (2 * h)
    torch.testing.assert_close(density.pdf(t), slope, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("density", DENSITIES, ids=repr)
def test_quantile_inverts_the_distribution(density):
    u = torch.linspace(0.001, 0.999, 99, dtype=torch.float64)
    torch.testing.assert_close(density.cdf(density.quantile(u)), u, rtol=1e-9, atol=1e-9)
    assert float(density.cdf(0.0)) == pytest.approx(0)
    assert float(density.cdf(1.0)) == pytest.approx(1)


@pytest.mark.parametrize("density", DENSITIES, ids=repr)
def test_samples_follow_the_distribution(density):
    t = density.sample(20_000, torch.Generator().manual_seed(0)).double()
    for edge in (0.1, 0.5, 0.9, 0.98):
        assert (t <= edge).double().mean() == pytest.approx(float(density.cdf(edge)), abs=0.012)


def test_logit_normal_peaks_at_the_printed_share():
    edges = torch.linspace(0, 1, 101, dtype=torch.float64)
    bins = LogitNormal().cdf(edges).diff()
    assert bins.max() == pytest.approx(0.016, abs=0.0005)
    assert bins.argmax() in (49, 50)


def test_power_law_meets_the_two_printed_numbers():
    density = PowerLaw(0.07)
    edges = torch.linspace(0, 1, 101, dtype=torch.float64)
    bins = density.cdf(edges).diff()
    assert bins.max() == pytest.approx(0.134, abs=0.0005)
    assert bins.argmax() == 99
    assert density.cdf(0.85) == pytest.approx(0.098, abs=0.0005)


def test_no_rational_shift_meets_both_printed_numbers():
    for a in torch.logspace(-3, 0, 200).tolist():
        peak = 1 - RationalShift(a).cdf(0.99)
        assert not (abs(peak - 0.13) < 0.01 and abs(RationalShift(a).cdf(0.85) - 0.10) < 0.01)


def test_power_law_of_zero_is_always_pure_noise():
    density = PowerLaw(0.0)
    assert (density.sample(100) == 1).all()
    assert density.cdf(0.999) == 0
    assert density.cdf(1.0) == 1
    assert density.pdf(0.5) == 0
    assert density.pdf(1.0) == torch.inf


def test_a_smaller_a_puts_more_mass_near_one():
    shares = [float(1 - PowerLaw(a).cdf(0.95)) for a in (0.5, 0.1, 0.05, 0.01)]
    assert shares == sorted(shares)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LogitNormal(std=0),
        lambda: PowerLaw(-0.1),
        lambda: RationalShift(0),
        lambda: PowerLaw().pdf(1.1),
    ],
)
def test_impossible_values_are_refused(make):
    with pytest.raises(ValueError, match=r"Got .* expected"):
        make()
