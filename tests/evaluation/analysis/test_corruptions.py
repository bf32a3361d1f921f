import io

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from cifarlab.evaluation.analysis.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from tests.evaluation.audit.conftest import noise

IMAGES, IDS = noise(20, 0), np.arange(100, 120)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_severity_is_further_from_the_picture_and_the_same_in_other_company(kind):
    distances = []
    before = IMAGES.copy()
    for severity in range(1, 6):
        worse = corrupt(IMAGES, IDS, kind, severity)
        assert worse.shape == IMAGES.shape
        assert worse.dtype == np.uint8
        distances.append(np.abs(worse.astype(float) - IMAGES).mean())
        alone = corrupt(IMAGES[7:9][::-1], IDS[7:9][::-1], kind, severity)
        assert np.array_equal(alone, worse[[8, 7]])
    assert distances == sorted(distances)
    assert distances[0] > 0
    assert np.array_equal(IMAGES, before)


def test_noise_has_the_deviation_it_says():
    gray = np.full((200, 3, 32, 32), 128, np.uint8)
    for severity, deviation in enumerate(SEVERITIES["gaussian_noise"], 1):
        worse = corrupt(gray, np.arange(200), "gaussian_noise", severity).astype(float)
        assert (worse - 128).std() == pytest.approx(255 * deviation, rel=0.01)
        assert abs((worse - 128).mean()) < 0.2
        assert not np.array_equal(worse[0], worse[1])


def test_blur_is_scipys():
    for severity, sigma in enumerate(SEVERITIES["gaussian_blur"], 1):
        exact = scipy.ndimage.gaussian_filter(
            IMAGES.astype(np.float64), (0, 0, sigma, sigma), mode="nearest", radius=int(np.ceil(4 * sigma))
        )
        found = corrupt(IMAGES, IDS, "gaussian_blur", severity)
        assert np.abs(found - exact).max() <= 0.501


def test_contrast_keeps_the_mean_and_shrinks_the_deviation():
    gentle = (IMAGES // 2 + 60).astype(np.uint8)
    for severity, left in enumerate(SEVERITIES["contrast"], 1):
        worse = corrupt(gentle, IDS, "contrast", severity).astype(float)
        np.testing.assert_allclose(worse.mean((2, 3)), gentle.mean((2, 3)), atol=0.3)
        np.testing.assert_allclose(worse.std((2, 3)), left * gentle.std((2, 3)), rtol=0.03)


def test_jpeg_is_pillows():
    buffer = io.BytesIO()
    Image.fromarray(IMAGES[3].transpose(1, 2, 0)).save(buffer, "JPEG", quality=58)
    expected = np.asarray(Image.open(buffer)).transpose(2, 0, 1)
    assert np.array_equal(corrupt(IMAGES, IDS, "jpeg", 3)[3], expected)
