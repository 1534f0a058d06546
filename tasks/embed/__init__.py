"""What only embedding models need: taking one up as the teacher, the floor, the measures and their evaluation."""
