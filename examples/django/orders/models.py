from django.db import models


class Order(models.Model):
    item = models.CharField(max_length=100)
    parcel = models.CharField(max_length=100, blank=True)

    def __str__(self):
        return f"{self.item}, {self.parcel or 'not shipped'}"


class Report(models.Model):
    shipped = models.PositiveIntegerField()
    made_at = models.DateTimeField(auto_now_add=True)

    def __str__(self):
        return f"{self.shipped} shipped"
