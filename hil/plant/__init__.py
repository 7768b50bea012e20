"""The satellite's world: orbit, power, heat, radiation, ground stations and the sensors that look at them."""
