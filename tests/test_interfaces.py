from nasframe.interfaces import start_sampler


def test_a_sampler_hears_what_a_stage_is_for_if_it_wants_to():
    heard = []
    plain = type("Plain", (), {"start": lambda self, stage, total: heard.append((stage, total))})()
    curious = type("Curious", (), {"start": lambda self, stage, total, origin: heard.append((stage, total, origin))})()
    for sampler in (plain, curious, object()):
        start_sampler(sampler, "supernet", 10, "train")
    assert heard == [("supernet", 10), ("supernet", 10, "train")]
